//! The messages of D-Bus, as far as a caller of systemd needs them (D-Bus specification, "Message Protocol").
//!
//! ```text
//!   endianness  type  flags  version   a byte each
//!   length of the body, serial         u32 each
//!   fields                             a(yv): which object, which method, an answer to what …
//!   padding to 8 bytes, body
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;
use zvariant::serialized::{Context, Data};
use zvariant::{BE, Endian, LE, Type, Value, to_bytes};

use super::Error;

/// What is read before the length is known: up to and with the length of the fields.
pub(super) const HEAD: usize = 16;

/// Ours are some KB, systemd's likewise.
const LONGEST: usize = 4 << 20;

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;

type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Value<'a>)>);

/// Whom a call goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) destination: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
}

/// A method call with its arguments, a tuple.
pub(super) fn call<T: Serialize + Type>(
    target: Target,
    method: &'static str,
    serial: u32,
    arguments: &T,
) -> Result<Vec<u8>, Error> {
    let failed = |err| Error::Message { operation: method, err: Box::new(err) };
    let context = Context::new_dbus(LE, 0);
    let body = to_bytes(context, arguments).map_err(failed)?;
    // Without the tuple's parentheses.
    let signature = T::SIGNATURE.to_string_no_parens();
    let fields = [
        (PATH, Field::Path(target.path)),
        (INTERFACE, Field::Text(target.interface)),
        (MEMBER, Field::Text(method)),
        (DESTINATION, Field::Text(target.destination)),
        (SIGNATURE, Field::Signature(&signature)),
    ];
    let too_long = |bytes| Error::TooLong { operation: method, bytes };
    let length = u32::try_from(body.len()).map_err(|_| too_long(body.len()))?;
    let mut bytes = header(LE, CALL, length, serial, &fields);
    bytes.extend_from_slice(body.bytes());
    if bytes.len() > LONGEST { Err(too_long(bytes.len())) } else { Ok(bytes) }
}

/// A field's value.
enum Field<'a> {
    Path(&'a str),
    Text(&'a str),
    Signature(&'a str),
    #[cfg(test)]
    Number(u32),
}

/// By hand: the signature of several arguments is no single type, as which alone zvariant writes it (with parentheses).
/// Ends where the body begins.
fn header(endian: Endian, kind: u8, body: u32, serial: u32, fields: &[(u8, Field<'_>)]) -> Vec<u8> {
    let word = |number: u32| if endian == LE { number.to_le_bytes() } else { number.to_be_bytes() };
    let length = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut bytes = vec![if endian == LE { b'l' } else { b'B' }, kind, 0, 1];
    bytes.extend(word(body).into_iter().chain(word(serial)).chain(word(0)));
    let mut end = bytes.len();
    for (code, field) in fields {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        // The value is a variant: the signature of one type, and then, at four bytes from here, what it is of.
        match field {
            Field::Path(text) | Field::Text(text) => {
                let letter = if matches!(field, Field::Path(_)) { b'o' } else { b's' };
                bytes.extend([*code, 1, letter, 0].into_iter().chain(word(length(text))));
                bytes.extend(text.bytes().chain([0]));
            }
            // D-Bus allows 255 bytes.
            Field::Signature(text) => {
                bytes.extend([*code, 1, b'g', 0, u8::try_from(text.len()).unwrap_or(u8::MAX)]);
                bytes.extend(text.bytes().chain([0]));
            }
            #[cfg(test)]
            Field::Number(number) => bytes.extend([*code, 1, b'u', 0].into_iter().chain(word(*number))),
        }
        end = bytes.len();
    }
    let fields = u32::try_from(end - HEAD).unwrap_or(u32::MAX);
    bytes.splice(HEAD - 4..HEAD, word(fields));
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// What came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// Its name on the bus, which the bus vouches for; empty where there is none.
    pub(super) sender: String,
    endian: Endian,
    body: Vec<u8>,
    /// Of the body, without parentheses.
    signature: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To the call with this serial.
    Return(u32),
    /// To the call with this serial: the error's name.
    Error(u32, String),
    /// The signal's name.
    Signal(String),
    /// Somebody calls us; of which there is no need.
    Other,
}

impl Message {
    /// How long the whole message is whose first [`HEAD`] bytes are these.
    pub(super) fn length(head: &[u8; HEAD], operation: &'static str) -> Result<usize, Error> {
        let endian = endian(head[0]);
        let word = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            let word = if endian == LE { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
            word as usize
        };
        let length = word(12).saturating_add(HEAD).next_multiple_of(8).saturating_add(word(4));
        if length > LONGEST { Err(Error::TooLong { operation, bytes: length }) } else { Ok(length) }
    }

    pub(super) fn parse(bytes: &[u8], operation: &'static str) -> Result<Self, Error> {
        let failed = |err| Error::Message { operation, err: Box::new(err) };
        let endian = endian(bytes.first().copied().unwrap_or_default());
        let data = Data::new(bytes, Context::new_dbus(endian, 0));
        let ((_, kind, _, _, _, _, fields), length): (Header<'_>, usize) = data.deserialize().map_err(failed)?;
        let body = bytes.get(length.next_multiple_of(8)..).unwrap_or_default().to_vec();
        let (mut name, mut member, mut serial, mut signature) = (String::new(), String::new(), 0, String::new());
        let mut sender = String::new();
        for (field, value) in fields {
            match (field, value) {
                (ERROR_NAME, Value::Str(value)) => name = value.as_str().to_owned(),
                (MEMBER, Value::Str(value)) => member = value.as_str().to_owned(),
                (REPLY_SERIAL, Value::U32(value)) => serial = value,
                (SENDER, Value::Str(value)) => sender = value.as_str().to_owned(),
                (SIGNATURE, Value::Signature(value)) => signature = value.to_string_no_parens(),
                _ => {}
            }
        }
        let kind = match kind {
            RETURN => Kind::Return(serial),
            ERROR => Kind::Error(serial, name),
            SIGNAL => Kind::Signal(member),
            _ => Kind::Other,
        };
        Ok(Self { kind, sender, endian, body, signature })
    }

    /// The arguments, a tuple.
    pub(super) fn arguments<T: DeserializeOwned + Type>(&self, operation: &'static str) -> Result<T, Error> {
        let failed = |err| Error::Message { operation, err: Box::new(err) };
        if self.signature != T::SIGNATURE.to_string_no_parens() {
            return Err(failed(zvariant::Error::Message(format!("its arguments are {:?}", self.signature))));
        }
        let data = Data::new(self.body.as_slice(), Context::new_dbus(self.endian, 0));
        data.deserialize().map(|(arguments, _)| arguments).map_err(failed)
    }

    /// What an error says; nothing if it has no words.
    pub(super) fn text(&self) -> String {
        let Ok((text,)) = self.arguments::<(String,)>("read an error") else { return String::new() };
        text
    }
}

fn endian(byte: u8) -> Endian {
    if byte == b'B' { BE } else { LE }
}

/// The other side, for tests: big-endian, which ours is not.
#[cfg(test)]
pub(super) mod peer {
    use std::io::Read;

    use super::*;

    /// The next call's serial and method.
    pub(in super::super) fn read_call(mut stream: impl Read) -> (u32, String) {
        let mut bytes = vec![0; HEAD];
        stream.read_exact(&mut bytes).unwrap();
        let length = Message::length(bytes.as_slice().try_into().unwrap(), "test").unwrap();
        bytes.resize(length, 0);
        stream.read_exact(&mut bytes[HEAD..]).unwrap();
        let data = Data::new(bytes.as_slice(), Context::new_dbus(LE, 0));
        let ((_, _, _, _, _, serial, fields), _): (Header<'_>, usize) = data.deserialize().unwrap();
        let member = fields.into_iter().find_map(|(field, value)| (field == MEMBER).then_some(value)).unwrap();
        (serial, String::try_from(member).unwrap())
    }

    pub(super) fn message<T: Serialize + Type>(kind: u8, fields: Vec<(u8, Field<'_>)>, arguments: &T) -> Vec<u8> {
        let body = to_bytes(Context::new_dbus(BE, 0), arguments).unwrap();
        let signature = T::SIGNATURE.to_string_no_parens();
        let signature = (SIGNATURE, Field::Signature(&signature));
        let fields: Vec<_> = fields.into_iter().chain([signature]).collect();
        let mut bytes = header(BE, kind, body.len() as u32, 1, &fields);
        bytes.extend_from_slice(body.bytes());
        bytes
    }

    pub(in super::super) fn answer<T: Serialize + Type>(serial: u32, arguments: &T) -> Vec<u8> {
        message(RETURN, vec![(REPLY_SERIAL, Field::Number(serial))], arguments)
    }

    pub(in super::super) fn refusal(serial: u32, name: &'static str, words: &str) -> Vec<u8> {
        message(ERROR, vec![(ERROR_NAME, Field::Text(name)), (REPLY_SERIAL, Field::Number(serial))], &(words,))
    }

    pub(in super::super) fn signal<T: Serialize + Type>(name: &'static str, arguments: &T) -> Vec<u8> {
        message(SIGNAL, vec![(MEMBER, Field::Text(name))], arguments)
    }

    /// As they come over a bus.
    pub(in super::super) fn answer_by<T: Serialize + Type>(sender: &str, serial: u32, arguments: &T) -> Vec<u8> {
        message(RETURN, vec![(REPLY_SERIAL, Field::Number(serial)), (SENDER, Field::Text(sender))], arguments)
    }

    pub(in super::super) fn signal_by<T: Serialize + Type>(sender: &str, name: &'static str, arguments: &T) -> Vec<u8> {
        message(SIGNAL, vec![(MEMBER, Field::Text(name)), (SENDER, Field::Text(sender))], arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::peer::message;
    use super::*;

    const TARGET: Target = Target { destination: "a.b", path: "/a/b", interface: "a.b.C" };

    #[test]
    fn a_call_is_the_specifications_bytes() {
        let bytes = call(TARGET, "Do", 7, &("x", 5_u32)).unwrap();
        // Endianness, call, no flags, version 1; a body of 12 bytes; serial 7.
        assert_eq!(bytes[..12], [b'l', 1, 0, 1, 12, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(bytes[bytes.len() - 12..], [1, 0, 0, 0, b'x', 0, 0, 0, 5, 0, 0, 0]);
        // The signature of two arguments, which is not that of a tuple.
        assert!(bytes.windows(8).any(|window| window == [8, 1, b'g', 0, 2, b's', b'u', 0]), "{bytes:?}");
        let head: [u8; HEAD] = bytes[..HEAD].try_into().unwrap();
        assert_eq!(Message::length(&head, "test").unwrap(), bytes.len());
        let message = Message::parse(&bytes, "test").unwrap();
        assert_eq!(message.kind, Kind::Other);
        assert_eq!(message.arguments::<(String, u32)>("test").unwrap(), ("x".to_owned(), 5));
        assert!(message.arguments::<(String, String)>("test").is_err());
    }

    #[test]
    fn a_call_without_arguments_has_no_body() {
        let bytes = call(TARGET, "Do", 1, &()).unwrap();
        assert_eq!(bytes[4..8], [0; 4]);
        assert_eq!(Message::parse(&bytes, "test").unwrap().signature, "");
    }

    #[test]
    fn what_comes_is_told_apart() {
        let bytes = peer::refusal(9, "a.b.Err", "n");
        let head: [u8; HEAD] = bytes[..HEAD].try_into().unwrap();
        assert_eq!(Message::length(&head, "test").unwrap(), bytes.len());
        let refusal = Message::parse(&bytes, "test").unwrap();
        assert_eq!(refusal.kind, Kind::Error(9, "a.b.Err".to_owned()));
        assert_eq!(refusal.text(), "n");
        let signal = Message::parse(&peer::signal("JobRemoved", &()), "test").unwrap();
        assert_eq!(signal.kind, Kind::Signal("JobRemoved".to_owned()));
    }

    #[test]
    fn hostile_bytes_are_errors() {
        let mut head = [0xff; HEAD];
        assert!(matches!(Message::length(&head, "test"), Err(Error::TooLong { .. })));
        head[0] = b'l';
        assert!(matches!(Message::length(&head, "test"), Err(Error::TooLong { .. })));
        let bytes = message(RETURN, vec![(REPLY_SERIAL, Field::Number(9))], &());
        for end in 0..bytes.len() {
            // Cut anywhere: an error, or what is whole without the cut.
            if let Ok(message) = Message::parse(&bytes[..end], "test") {
                assert!(message.body.is_empty(), "{end}");
            }
        }
        assert!(Message::parse(&[0xff; 64], "test").is_err());
    }
}
