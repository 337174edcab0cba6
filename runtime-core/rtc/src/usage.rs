//! A command line that is none: what runc says, and its exit codes.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Args as _, CommandFactory, FromArgMatches};

use crate::args::{Args, Command, Global};
use crate::dashes;
use crate::error::Error;
use crate::log;
use crate::output;

/// What runc ends with where it has no such command.
const NO_COMMAND: u8 = 3;

/// # Errors
/// For [`refuse`].
pub(crate) fn parse(args: &[OsString]) -> Result<Args, clap::Error> {
    let args = &*dashes::doubled(args);
    // The first word that is a command's name is the command, or what follows is not understood and all of it looked at again.
    let command = args.iter().skip(1).find_map(|word| Command::definition(word.to_str()?));
    if let Some(command) = command {
        let alone = Global::augment_args(clap::Command::new("rtc")).subcommand(command);
        if let Ok(matches) = alone.try_get_matches_from(args) {
            return Args::from_arg_matches(&matches);
        }
    }
    Args::from_arg_matches(&command_line().try_get_matches_from(args)?)
}

/// `rtc` without a command.
pub(crate) fn help() -> Result<ExitCode, Error> {
    output::print(&command_line().render_help().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Answers a request for help, or tells what is wrong: the help on stdout, the error in the log.
pub(crate) fn refuse(err: &clap::Error) -> ExitCode {
    if err.kind() == ErrorKind::DisplayHelp {
        let printed = output::print(&err.render().to_string());
        return printed.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let (global, name) = leading(std::env::args_os());
    let log = global.and_then(|global| log::init(&global).ok()).unwrap_or_default();
    if err.kind() == ErrorKind::InvalidSubcommand {
        log.error(&format!("No help topic for '{}'", context(err, ContextKind::InvalidSubcommand)));
        return ExitCode::from(NO_COMMAND);
    }
    let mut command = command_line();
    command.build();
    let command = name.and_then(|name| command.find_subcommand_mut(name)).map(|command| command.clone());
    let command = command.unwrap_or_else(command_line);
    let (problem, text) = problem(err, &command);
    // The log has the error; who has closed stdout does not want the help.
    output::print(&format!("Incorrect Usage{problem}\n\n{}", command.clone().render_help())).ok();
    log.error(&text);
    ExitCode::FAILURE
}

/// The definitions, with each command under the name that a person types.
fn command_line() -> clap::Command {
    Args::command().mut_args(last_counts).mut_subcommands(|command| {
        let name = format!("rtc {}", command.get_name());
        command.display_name(name).help_template(crate::args::help_template!()).mut_args(last_counts)
    })
}

/// An option may be given again, as to runc; Podman does so.
fn last_counts(arg: Arg) -> Arg {
    let once = matches!(arg.get_action(), ArgAction::Set | ArgAction::SetTrue);
    if !once || arg.is_positional() {
        return arg;
    }
    let id = arg.get_id().clone();
    arg.overrides_with(id)
}

/// What comes before the command, and its name: this much can be understood where the rest cannot.
fn leading(args: impl Iterator<Item = OsString>) -> (Option<Global>, Option<String>) {
    let command =
        clap::Command::new("rtc").disable_help_flag(true).allow_external_subcommands(true).ignore_errors(true);
    let matches = Global::augment_args(command).try_get_matches_from(args).ok();
    let global = matches.as_ref().and_then(|matches| Global::from_arg_matches(matches).ok());
    (global, matches.and_then(|matches| matches.subcommand_name().map(str::to_owned)))
}

/// What follows "Incorrect Usage", and the error.
fn problem(err: &clap::Error, command: &clap::Command) -> (String, String) {
    let argument = context(err, ContextKind::InvalidArg);
    let flag = argument.split([' ', '=']).next().unwrap_or_default();
    // One dash, as Go's flags are.
    let flag = format!("-{}", flag.trim_start_matches('-'));
    let value = context(err, ContextKind::InvalidValue);
    let text = match err.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => format!("flag provided but not defined: {flag}"),
        ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument | ErrorKind::TooManyValues => {
            return (".".to_owned(), wrong_number(command, err.kind()));
        }
        ErrorKind::InvalidValue if value.is_empty() && argument.starts_with('-') => {
            format!("flag needs an argument: {flag}")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let cause = std::error::Error::source(err).map_or_else(|| "parse error".to_owned(), ToString::to_string);
            format!("invalid value {value:?} for flag {flag}: {cause}")
        }
        _ => {
            let text = err.render().to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    };
    (format!(": {text}"), text)
}

fn wrong_number(command: &clap::Command, kind: ErrorKind) -> String {
    let program = std::env::args().next().unwrap_or_default();
    let positionals: Vec<_> = command.get_positionals().collect();
    let most = positionals.len();
    let least = positionals.iter().filter(|argument| argument.is_required_set()).count();
    let name = command.get_name();
    let open = positionals.iter().any(|argument| argument.is_trailing_var_arg_set());
    let number = match kind {
        ErrorKind::MissingRequiredArgument if open || least != most => format!("a minimum of {least}"),
        _ if least != most => format!("a maximum of {most}"),
        _ => format!("exactly {least}"),
    };
    format!("{program}: {name:?} requires {number} argument(s)")
}

fn context(err: &clap::Error, kind: ContextKind) -> String {
    match err.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.first().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn said(line: &str) -> String {
        let args = words(line);
        let err = parse(&args).unwrap_err();
        let (_, name) = leading(args.into_iter());
        let mut command = command_line();
        command.build();
        let command = name.and_then(|name| command.find_subcommand(name).cloned()).unwrap_or(command);
        let text = problem(&err, &command).1;
        text.split_once(": \"").map_or(text.clone(), |(_, rest)| format!("\"{rest}"))
    }

    #[test]
    fn the_definitions_are_sound() {
        command_line().debug_assert();
    }

    #[test]
    fn mistakes_are_told_in_runcs_words() {
        assert_eq!(said("rtc state"), "\"state\" requires exactly 1 argument(s)");
        assert_eq!(said("rtc state a b"), "\"state\" requires exactly 1 argument(s)");
        assert_eq!(said("rtc list a"), "\"list\" requires exactly 0 argument(s)");
        assert_eq!(said("rtc kill"), "\"kill\" requires a minimum of 1 argument(s)");
        assert_eq!(said("rtc kill a b c"), "\"kill\" requires a maximum of 2 argument(s)");
        assert_eq!(said("rtc ps"), "\"ps\" requires a minimum of 1 argument(s)");
        assert_eq!(said("rtc state --foo a"), "flag provided but not defined: -foo");
        assert_eq!(said("rtc --log"), "flag needs an argument: -log");
        assert_eq!(said("rtc list --format"), "flag needs an argument: -format");
    }

    #[test]
    fn the_log_is_found_before_what_cannot_be_understood() {
        let args = ["rtc", "--log", "/x", "--log-format", "json", "state", "--foo"].map(OsString::from);
        let (global, name) = leading(args.into_iter());
        let global = global.unwrap();
        assert_eq!((global.log.unwrap().to_str().unwrap(), global.log_format.as_str()), ("/x", "json"));
        assert_eq!(name.as_deref(), Some("state"));
    }

    #[test]
    fn options_come_before_and_after_the_id() {
        for line in ["rtc delete --force web", "rtc delete web --force", "rtc delete web -f", "rtc kill -a web 9"] {
            assert!(parse(&words(line)).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_name_of_a_command_can_be_a_value() {
        let args = parse(&words("rtc --root list --log state kill delete")).unwrap();
        assert_eq!(args.global.root.unwrap().to_str(), Some("list"));
        assert!(matches!(args.command, Some(Command::Kill(_))));
        assert!(parse(&words("rtc -v")).unwrap().global.version);
    }

    #[test]
    fn an_option_may_be_given_again_and_the_last_counts() {
        for line in
            ["rtc --debug --debug list", "rtc checkpoint --leave-running --leave-running web", "rtc delete -f -f web"]
        {
            assert!(parse(&words(line)).is_ok(), "{line}");
        }
        let args = parse(&words("rtc --log /a --log /b list")).unwrap();
        assert_eq!(args.global.log.unwrap().to_str(), Some("/b"));
        let args = parse(&words("rtc exec -e A=1 -e B=2 web true")).unwrap();
        let text = format!("{:?}", args.command);
        assert!(text.contains(r#"["A=1", "B=2"]"#), "{text}");
    }

    #[test]
    fn what_follows_the_id_is_for_ps() {
        let args = parse(&words("rtc ps -f json web -f --format x -e")).unwrap();
        let text = format!("{:?}", args.command);
        assert!(text.contains(r#"format: "json", args: ["web", "-f", "--format", "x", "-e"]"#), "{text}");
    }
}
