//! The log, in the two formats of runc's (which are logrus'): callers parse the JSON to tell their users what went wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::time::SystemTime;

use runtime_core::time::Rfc3339;
use rustix::fs::OFlags;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::args::Global;
use crate::error::Error;

/// Where errors go besides the log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// The log is a file, which a person does not see.
    apart: bool,
}

impl Log {
    /// Tells what ended the command.
    pub(crate) fn fatal(&self, err: &Error) -> ExitCode {
        self.error(&runtime_core::error::chain(err));
        ExitCode::from(err.exit_code())
    }

    pub(crate) fn error(&self, text: &str) {
        // Before the log is set up there is no subscriber.
        if !tracing::dispatcher::has_been_set() {
            Sink::standard_error(Format::Text).write(Level::ERROR, &Entry::message(text));
        }
        tracing::error!("{text}");
        if self.apart {
            writeln!(std::io::stderr(), "{text}").ok();
        }
    }
}

/// Sends what is traced from now on to the log.
///
/// # Errors
/// The format is none, or the file cannot be opened.
pub(crate) fn init(global: &Global) -> Result<Log, Error> {
    let format = match global.log_format.as_str() {
        "" | "text" => Format::Text,
        "json" => Format::Json,
        other => return Err(Error::LogFormat(other.to_owned())),
    };
    let path = global.log.as_ref().filter(|path| !path.as_os_str().is_empty());
    let sink = match path {
        None => Sink::standard_error(format),
        Some(path) => {
            let (sync, mode) = (OFlags::SYNC.bits().cast_signed(), 0o644);
            let opened = OpenOptions::new().create(true).append(true).custom_flags(sync).mode(mode).open(path);
            let file = opened.map_err(|err| Error::File { operation: "open", path: path.clone(), err })?;
            Sink { out: Box::new(file), format }
        }
    };
    let level = if global.debug { Level::DEBUG } else { Level::INFO };
    // It is set once, here.
    tracing::subscriber::set_global_default(Logger { sink, level }).ok();
    Ok(Log { apart: path.is_some() })
}

#[derive(Clone, Copy)]
enum Format {
    Text,
    /// Text for a person.
    Terminal,
    Json,
}

struct Sink {
    out: Box<dyn SharedWrite>,
    format: Format,
}

trait SharedWrite: Send + Sync {
    /// What cannot be logged is lost: there is nowhere left to say so.
    fn line(&self, line: &str);
}

impl SharedWrite for std::fs::File {
    fn line(&self, line: &str) {
        // One write, so that the lines of several processes do not mix.
        let mut file = self;
        file.write_all(line.as_bytes()).ok();
    }
}

impl SharedWrite for std::io::Stderr {
    fn line(&self, line: &str) {
        self.lock().write_all(line.as_bytes()).ok();
    }
}

impl Sink {
    fn standard_error(format: Format) -> Self {
        let stderr = std::io::stderr();
        let format = if matches!(format, Format::Text) && stderr.is_terminal() { Format::Terminal } else { format };
        Self { out: Box::new(stderr), format }
    }

    fn write(&self, level: Level, entry: &Entry) {
        let name = match level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        self.out.line(&match self.format {
            Format::Text => entry.text(name),
            Format::Terminal => entry.terminal(level, name),
            Format::Json => entry.json(name),
        });
    }
}

/// One event.
#[derive(Default)]
struct Entry {
    message: String,
    fields: BTreeMap<&'static str, String>,
}

impl Entry {
    fn message(text: &str) -> Self {
        Self { message: text.to_owned(), fields: BTreeMap::new() }
    }

    fn text(&self, level: &str) -> String {
        let time = Rfc3339(SystemTime::now());
        let fields = self.fields();
        format!("time=\"{time:.0}\" level={level} msg={}{fields}\n", Quoted(&self.message))
    }

    fn terminal(&self, level: Level, name: &str) -> String {
        let color = match level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 36,
            Level::DEBUG | Level::TRACE => 37,
        };
        let short = name.get(..4).unwrap_or(name).to_ascii_uppercase();
        // Logrus has the seconds since the program's start in the brackets; ours are over in none.
        format!("\x1b[{color}m{short}\x1b[0m[0000] {}{}\n", self.message, self.fields())
    }

    fn fields(&self) -> String {
        self.fields.iter().map(|(key, value)| format!(" {key}={}", Quoted(value))).collect()
    }

    fn json(&self, level: &str) -> String {
        let time = format!("{:.0}", Rfc3339(SystemTime::now()));
        let fields = self.fields.iter().map(|(key, value)| (*key, value.as_str()));
        let entry: BTreeMap<&str, &str> =
            fields.chain([("level", level), ("msg", &self.message), ("time", &time)]).collect();
        // A map of strings can always be encoded.
        serde_json::to_string(&entry).unwrap_or_default() + "\n"
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.insert(field.name(), value.to_owned());
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &runtime_core::error::chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Bare where logrus leaves it bare, else in quotes and escaped.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
        if self.0.chars().all(bare) { f.write_str(self.0) } else { write!(f, "{:?}", self.0) }
    }
}

/// A command is one request: spans would say nothing that it does not.
struct Logger {
    sink: Sink,
    level: Level,
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        self.sink.write(*event.metadata().level(), &entry);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry { message: "no \"room\"".to_owned(), fields: BTreeMap::from([("id", "web".to_owned())]) }
    }

    #[test]
    fn text_is_logrus_text() {
        let line = entry().text("error");
        let (time, rest) = line.split_at("time=\"2026-11-21T07:08:09Z\"".len());
        assert!(time.starts_with("time=\"20") && time.ends_with("Z\""), "{line}");
        assert_eq!(rest, " level=error msg=\"no \\\"room\\\"\" id=web\n");
        assert!(Entry::message("one-word").text("info").ends_with(" msg=one-word\n"));
    }

    #[test]
    fn json_is_logrus_json() {
        let line = entry().json("warning");
        assert!(line.starts_with(r#"{"id":"web","level":"warning","msg":"no \"room\"","time":"20"#), "{line}");
        assert!(line.ends_with("Z\"}\n"), "{line}");
    }

    #[test]
    fn what_is_traced_reaches_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sink = Sink { out: Box::new(file.reopen().unwrap()), format: Format::Text };
        tracing::subscriber::with_default(Logger { sink, level: Level::INFO }, || {
            tracing::info_span!("create").in_scope(|| tracing::warn!(path = "/a b", "left out"));
            tracing::debug!("not this");
        });
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.ends_with(" level=warning msg=\"left out\" path=\"/a b\"\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
