//! Values in GVariant's text format, of the types that D-Bus has and in as much as runc takes them:
//!
//! ```text
//!   true   7   -7   0x1f   1.5   'text'   "text"   b'bytes'
//!   uint64 7   @t 7                 byte int16 uint16 int32 uint32 int64 uint64 double boolean string objectpath signature
//!   ['a', 'b']   @as []   {'key': <7>}   <'variant'>
//! ```
//! A number without a type is an int32, or a double if it has a point or an exponent. Elements of an array have one type,
//! which is that of the first one that names its own.

use std::iter::Peekable;
use std::str::{Chars, FromStr};

use zvariant::{Array, Dict, ObjectPath, Signature, Value};

/// Deeper than any property of a unit, and no danger to the stack.
const DEPTH: usize = 16;

/// What is wrong with the text.
type Result<T> = std::result::Result<T, String>;

pub(super) fn parse(text: &str) -> Result<Value<'static>> {
    let mut parser = Parser { left: text.chars().peekable() };
    let node = parser.node(0)?;
    parser.blanks();
    match parser.left.next() {
        None => node.value(&node.signature()?),
        Some(character) => Err(format!("unexpected {character:?} after the value")),
    }
}

/// What is written, of no certain type yet.
#[derive(Debug)]
enum Node {
    Bool(bool),
    Number(String),
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<Node>),
    Dict(Vec<(Node, Node)>),
    Variant(Box<Node>),
    /// With its type before it.
    Typed(Signature, Box<Node>),
}

impl Node {
    /// The type that it names itself, if it does.
    fn named(&self) -> Option<Signature> {
        match self {
            Self::Typed(signature, _) => Some(signature.clone()),
            Self::Bool(_) | Self::Bytes(_) | Self::Variant(_) => self.signature().ok(),
            Self::Number(_) | Self::Text(_) => None,
            Self::Array(nodes) => nodes.iter().find_map(Self::named).map(Signature::array),
            Self::Dict(pairs) => {
                let key = pairs.iter().find_map(|(key, _)| key.named());
                let value = pairs.iter().find_map(|(_, value)| value.named());
                let (first_key, first_value) = pairs.first()?;
                let key = key.map_or_else(|| first_key.signature().ok(), Some)?;
                Some(Signature::dict(key, value.map_or_else(|| first_value.signature().ok(), Some)?))
            }
        }
    }

    fn signature(&self) -> Result<Signature> {
        Ok(match self {
            Self::Bool(_) => Signature::Bool,
            Self::Number(text) if is_double(text) => Signature::F64,
            Self::Number(_) => Signature::I32,
            Self::Text(_) => Signature::Str,
            Self::Bytes(_) => Signature::array(Signature::U8),
            Self::Variant(_) => Signature::Variant,
            Self::Typed(signature, _) => signature.clone(),
            Self::Array(nodes) => match (self.named(), nodes.first()) {
                (Some(named), _) => named,
                (None, Some(first)) => Signature::array(first.signature()?),
                (None, None) => return Err("an empty array needs a type before it, as in \"@as []\"".to_owned()),
            },
            Self::Dict(_) => match self.named() {
                Some(named) => named,
                None => return Err("an empty dictionary needs a type before it, as in \"@a{sv} {}\"".to_owned()),
            },
        })
    }

    fn value(&self, wanted: &Signature) -> Result<Value<'static>> {
        let mismatch = || format!("{self:?} is no {wanted}");
        Ok(match (self, wanted) {
            (Self::Typed(own, node), wanted) if own == wanted => node.value(wanted)?,
            (Self::Bool(value), Signature::Bool) => Value::Bool(*value),
            (Self::Number(text), wanted) => number(text, wanted)?,
            (Self::Text(text), Signature::Str) => Value::Str(text.clone().into()),
            (Self::Text(text), Signature::ObjectPath) => {
                Value::ObjectPath(ObjectPath::try_from(text.clone()).map_err(|err| err.to_string())?)
            }
            (Self::Text(text), Signature::Signature) => Value::Signature(signature(text)?),
            (Self::Bytes(bytes), wanted) if *wanted == Signature::array(Signature::U8) => bytes.clone().into(),
            (Self::Variant(node), Signature::Variant) => Value::Value(Box::new(node.value(&node.signature()?)?)),
            (Self::Array(nodes), Signature::Array(element)) => {
                let mut array = Array::new(element.signature());
                for node in nodes {
                    array.append(node.value(element.signature())?).map_err(|err| err.to_string())?;
                }
                Value::Array(array)
            }
            (Self::Dict(pairs), Signature::Dict { key, value }) => {
                let (key, value) = (key.signature(), value.signature());
                let mut dict = Dict::new(key, value);
                for pair in pairs {
                    dict.append(pair.0.value(key)?, pair.1.value(value)?).map_err(|err| err.to_string())?;
                }
                Value::Dict(dict)
            }
            _ => return Err(mismatch()),
        })
    }
}

fn is_double(number: &str) -> bool {
    !number.contains("0x") && number.contains(['.', 'e'])
}

fn number(text: &str, wanted: &Signature) -> Result<Value<'static>> {
    fn whole<T: TryFrom<i128>>(text: &str) -> Result<T> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let parsed = match digits {
            // A second sign, wherever Rust would take it.
            _ if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) => None,
            _ if digits.starts_with("0x") => i128::from_str_radix(&digits[2..], 16).ok(),
            _ if digits.len() > 1 && digits.starts_with('0') => i128::from_str_radix(digits, 8).ok(),
            _ => digits.parse().ok(),
        };
        let value = parsed.map(|value: i128| if negative { -value } else { value });
        value.and_then(|value| T::try_from(value).ok()).ok_or_else(|| format!("{text:?} is no number of its type"))
    }
    Ok(match wanted {
        Signature::U8 => Value::U8(whole(text)?),
        Signature::I16 => Value::I16(whole(text)?),
        Signature::U16 => Value::U16(whole(text)?),
        Signature::I32 => Value::I32(whole(text)?),
        Signature::U32 => Value::U32(whole(text)?),
        Signature::I64 => Value::I64(whole(text)?),
        Signature::U64 => Value::U64(whole(text)?),
        Signature::F64 => Value::F64(text.parse().map_err(|_| format!("{text:?} is no number of its type"))?),
        other => return Err(format!("{text} is no {other}")),
    })
}

fn signature(text: &str) -> Result<Signature> {
    Signature::from_str(text).map_err(|_| format!("{text:?} is no type of D-Bus"))
}

/// The words for a type.
fn keyword(word: &str) -> Option<Signature> {
    Some(match word {
        "boolean" => Signature::Bool,
        "byte" => Signature::U8,
        "int16" => Signature::I16,
        "uint16" => Signature::U16,
        "int32" => Signature::I32,
        "uint32" => Signature::U32,
        "int64" => Signature::I64,
        "uint64" => Signature::U64,
        "double" => Signature::F64,
        "string" => Signature::Str,
        "objectpath" => Signature::ObjectPath,
        "signature" => Signature::Signature,
        _ => return None,
    })
}

struct Parser<'a> {
    left: Peekable<Chars<'a>>,
}

impl Parser<'_> {
    fn blanks(&mut self) {
        while self.left.next_if(|character| character.is_ascii_whitespace()).is_some() {}
    }

    fn node(&mut self, depth: usize) -> Result<Node> {
        if depth > DEPTH {
            return Err(format!("it is nested deeper than {DEPTH} levels"));
        }
        self.blanks();
        match self.left.peek().copied() {
            None => Err("there is no value".to_owned()),
            Some(quote @ ('\'' | '"')) => {
                self.left.next();
                self.text(quote).map(Node::Text)
            }
            Some('[') => self.array(depth),
            Some('{') => self.dict(depth),
            Some('<') => {
                self.left.next();
                let node = self.node(depth + 1)?;
                self.expect('>')?;
                Ok(Node::Variant(Box::new(node)))
            }
            Some('@') => {
                self.left.next();
                let word = self.take_while(|character| !character.is_ascii_whitespace());
                self.typed(signature(&word)?, depth)
            }
            Some('0'..='9' | '-' | '+' | '.') => {
                let letters = |character: char| character.is_ascii_alphanumeric() || "+-.".contains(character);
                Ok(Node::Number(self.take_while(letters)))
            }
            Some(_) => self.word(depth),
        }
    }

    fn word(&mut self, depth: usize) -> Result<Node> {
        let word = self.take_while(|character| character.is_ascii_alphanumeric());
        match (word.as_str(), self.left.peek().copied()) {
            ("true", _) => Ok(Node::Bool(true)),
            ("false", _) => Ok(Node::Bool(false)),
            ("b", Some(quote @ ('\'' | '"'))) => {
                self.left.next();
                self.bytes(quote).map(Node::Bytes)
            }
            ("", Some(character)) => Err(format!("unexpected {character:?}")),
            (word, _) => match keyword(word) {
                Some(signature) => self.typed(signature, depth),
                None => Err(format!("unexpected {word:?}")),
            },
        }
    }

    fn typed(&mut self, signature: Signature, depth: usize) -> Result<Node> {
        match self.node(depth + 1)? {
            Node::Typed(..) => Err("unexpected second type".to_owned()),
            node => Ok(Node::Typed(signature, Box::new(node))),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node> {
        let mut nodes = Vec::new();
        self.list('[', ']', |parser| {
            nodes.push(parser.node(depth + 1)?);
            Ok(())
        })?;
        Ok(Node::Array(nodes))
    }

    fn dict(&mut self, depth: usize) -> Result<Node> {
        let mut pairs = Vec::new();
        self.list('{', '}', |parser| {
            let key = parser.node(depth + 1)?;
            parser.expect(':')?;
            pairs.push((key, parser.node(depth + 1)?));
            Ok(())
        })?;
        Ok(Node::Dict(pairs))
    }

    fn list(&mut self, open: char, close: char, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.expect(open)?;
        self.blanks();
        if self.left.next_if_eq(&close).is_some() {
            return Ok(());
        }
        loop {
            item(self)?;
            self.blanks();
            match self.left.next() {
                Some(',') => {}
                Some(end) if end == close => return Ok(()),
                other => return Err(unexpected(other)),
            }
        }
    }

    fn expect(&mut self, wanted: char) -> Result<()> {
        self.blanks();
        match self.left.next() {
            Some(character) if character == wanted => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> String {
        std::iter::from_fn(|| self.left.next_if(|character| is_part(*character))).collect()
    }

    /// As far as the closing quote.
    fn text(&mut self, quote: char) -> Result<String> {
        let mut text = String::new();
        loop {
            match self.character()? {
                end if end == quote => break,
                '\\' => match self.character()? {
                    '\n' => {}
                    'u' => text.push(self.unicode(4)?),
                    'U' => text.push(self.unicode(8)?),
                    other => text.push(escaped(other).map_or(other, char::from)),
                },
                other => text.push(other),
            }
        }
        if text.contains('\0') { Err("a text has no zero byte".to_owned()) } else { Ok(text) }
    }

    /// As far as the closing quote; a zero byte ends them.
    fn bytes(&mut self, quote: char) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4];
        loop {
            match self.character()? {
                end if end == quote => break,
                '\\' => match self.character()? {
                    digit @ '0'..='7' => {
                        let digits = format!("{digit}{}{}", self.character()?, self.character()?);
                        bytes.push(u8::from_str_radix(&digits, 8).map_err(|_| format!("\\{digits} is no byte"))?);
                    }
                    other => match escaped(other) {
                        Some(byte) => bytes.push(byte),
                        None => bytes.extend_from_slice(other.encode_utf8(&mut buffer).as_bytes()),
                    },
                },
                other => bytes.extend_from_slice(other.encode_utf8(&mut buffer).as_bytes()),
            }
        }
        bytes.push(0);
        Ok(bytes)
    }

    fn character(&mut self) -> Result<char> {
        self.left.next().ok_or_else(|| unexpected(None))
    }

    fn unicode(&mut self, digits: usize) -> Result<char> {
        let text: String = self.left.by_ref().take(digits).collect();
        let whole = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(&text, 16).ok().filter(|_| whole);
        number.and_then(char::from_u32).ok_or_else(|| format!("{text:?} is no character's number"))
    }
}

fn escaped(character: char) -> Option<u8> {
    Some(match character {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        _ => return None,
    })
}

fn unexpected(found: Option<char>) -> String {
    match found {
        Some(character) => format!("unexpected {character:?}"),
        None => "it ends too early".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the words of the library, which writes the format but does not read it.
    #[track_caller]
    fn check(text: &str, signature: &str, written: &str) {
        let value = parse(text).unwrap_or_else(|err| panic!("{text}: {err}"));
        assert_eq!(value.value_signature().to_string(), signature, "{text}");
        assert_eq!(value.to_string(), written, "{text}");
    }

    #[test]
    fn values_have_the_types_that_runc_gives_them() {
        check("true", "b", "true");
        check(" 7 ", "i", "7");
        check("-7", "i", "-7");
        check("1.5", "d", "1.5");
        check("2e3", "d", "2000.");
        check("'it'", "s", "\"it\"");
        check(r#""a'b\n\u00e9""#, "s", "\"a'b\\né\"");
        check("uint64 123456789", "t", "uint64 123456789");
        check("@t 0x1f", "t", "uint64 31");
        check("byte 017", "y", "byte 0x0f");
        check("objectpath '/a/b'", "o", "objectpath \"/a/b\"");
        check("['a', \"b\"]", "as", "[\"a\", \"b\"]");
        check("[1, uint32 2]", "au", "[uint32 1, 2]");
        check("@as []", "as", "@as []");
        check("[[1], [2]]", "aai", "[[1], [2]]");
        check("b'ab'", "ay", "b\"ab\"");
        check("{'a': <7>, 'b': <'x'>}", "a{sv}", "{\"a\": <7>, \"b\": <\"x\">}");
        check("{'a': uint32 1, 'b': 2}", "a{su}", "{\"a\": uint32 1, \"b\": 2}");
    }

    #[test]
    fn what_is_no_value_is_told() {
        for text in [
            "",
            "x",
            "true false",
            "uint64",
            "uint64 -1",
            "byte 256",
            "2147483648",
            "08",
            "0x",
            "0x-5",
            "-+5",
            "0+7",
            "'\\u+12f'",
            "--1",
            "'open",
            "'\\u12'",
            "'a\\u0000b'",
            "[1, 'a']",
            "[]",
            "{}",
            "[1,",
            "[1,]",
            "{'a' 1}",
            "@z 1",
            "@t @t 1",
            "boolean 1",
            "objectpath 'x'",
            "(1, 2)",
            "<1",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse(&"[".repeat(100_000)).unwrap_err().contains("deeper"));
        assert!(parse(&format!("{}1{}", "<".repeat(100), ">".repeat(100))).is_err());
    }
}
