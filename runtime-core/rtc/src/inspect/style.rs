//! Colours for a terminal, and what of a name may go to one.

use std::fmt::Write as _;
use std::io::IsTerminal;

use anstyle::{AnsiColor, Effects};

/// Whether there are colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colours: bool,
}

impl Style {
    /// Colours on a terminal, unless the user wants none (no-color.org) or it has none.
    pub(crate) fn of_stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = std::env::var_os("TERM").is_some_and(|terminal| terminal != "dumb");
        Self { colours: wanted && able && std::io::stdout().is_terminal() }
    }

    /// No colours.
    pub(crate) fn none() -> Self {
        Self { colours: false }
    }

    /// What a branch is about.
    pub(crate) fn title(self, text: &str) -> String {
        self.paint(anstyle::Style::new().effects(Effects::BOLD), text)
    }

    pub(crate) fn name(self, text: &str) -> String {
        self.paint(AnsiColor::Cyan.on_default(), text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default(), text)
    }

    fn paint(self, style: anstyle::Style, text: &str) -> String {
        if self.colours { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// A name that a program chose: what would move the cursor, or turn the text's direction, is written out.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    escaped
}

/// Marks of direction, line and paragraph separators, and what has no width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// JSON has escaped the controls below the space, and terminals know others.
pub(crate) fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if ('\u{7f}'..='\u{9f}').contains(&c) || is_invisible(c) {
            // To a string it cannot fail.
            write!(escaped, "\\u{:04x}", u32::from(c)).ok();
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_moves_the_cursor() {
        assert_eq!(escape("/tmp/\x1b[2J\u{9b}2J\n"), "/tmp/\\u{1b}[2J\\u{9b}2J\\n");
        assert_eq!(escape("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(escape("größe 大"), "größe 大");
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!("\x1b\u{7f}\u{9b}\u{202e}ü");
        let json = escape_json(&value.to_string());
        assert!(json.chars().all(|c| !c.is_control() && !is_invisible(c)), "{json}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
    }

    #[test]
    fn without_colours_there_are_none() {
        assert_eq!(Style { colours: false }.bad("x"), "x");
        assert_eq!(Style { colours: true }.bad("x"), "\x1b[31mx\x1b[0m");
    }
}
