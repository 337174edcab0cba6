//! Long options with one dash, as Go's flags may have: `-no-subreaper`, which containerd's runc shim says at a restore.

use std::borrow::Cow;
use std::ffi::OsString;

use clap::Args as _;

use crate::args::{Command, Global};

/// The words with two dashes before each long option. To clap one dash means short options, and their values: `-env A=b` would
/// be the variable "nv". Looked at up to the first word that is neither option nor value nor the command, as Go does: what
/// follows may be a program's.
pub(crate) fn doubled(words: &[OsString]) -> Cow<'_, [OsString]> {
    let is_suspect = |word: &OsString| {
        let word = word.as_encoded_bytes();
        word.len() > 2 && word.starts_with(b"-") && !word.starts_with(b"--")
    };
    if !words.iter().skip(1).any(is_suspect) {
        return Cow::Borrowed(words);
    }
    let mut words = words.to_vec();
    let mut definition = Global::augment_args(clap::Command::new("rtc"));
    let mut in_command = false;
    let mut places = 1..words.len();
    while let Some(place) = places.next() {
        let Some(word) = words.get(place).and_then(|word| word.to_str()).map(str::to_owned) else { break };
        if word == "--" {
            break;
        }
        if let Some(option) = word.strip_prefix('-').filter(|option| !option.is_empty()) {
            let given = option.strip_prefix('-').unwrap_or(option);
            let (name, value) = given.split_once('=').map_or((given, None), |(name, value)| (name, Some(value)));
            let Some(found) = definition.get_arguments().find(|arg| is_named(arg, name)) else { continue };
            let takes_next = found.get_action().takes_values() && value.is_none();
            if name.len() > 1 {
                words[place] = format!("--{given}").into();
            }
            if takes_next {
                places.next();
            }
        } else if !in_command && let Some(command) = Command::definition(&word) {
            (definition, in_command) = (command, true);
        } else {
            break;
        }
    }
    Cow::Owned(words)
}

fn is_named(arg: &clap::Arg, name: &str) -> bool {
    arg.get_long() == Some(name) || arg.get_short().is_some_and(|short| name.strip_prefix(short) == Some(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_option_needs_but_one_dash() {
        for (line, expected) in [
            ("rtc restore -no-subreaper -bundle /b web", "rtc restore --no-subreaper --bundle /b web"),
            ("rtc -root=/x -debug list -q", "rtc --root=/x --debug list -q"),
            // A value and a program's argument are no options of ours.
            ("rtc exec -env -tty -t web ls -all -env", "rtc exec --env -tty -t web ls -all -env"),
            ("rtc delete -f -- -force", "rtc delete -f -- -force"),
            ("rtc kill web -9", "rtc kill web -9"),
            ("rtc exec -tabc web", "rtc exec -tabc web"),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let doubled: Vec<_> = doubled(&words).iter().map(|word| word.to_str().unwrap().to_owned()).collect();
            assert_eq!(doubled.join(" "), expected);
        }
    }
}
