//! The log: lines as containerd's own shims write them, to the fifo `log` in the bundle, which containerd copies into
//! its own log.
//!
//! The fifo is opened for reading too and never waited for: when containerd is away, lines stay in the pipe until it is
//! full and are lost then, but the shim never hangs or dies of them.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

const FIFO: &str = "log";

/// Sends what is traced from now on to the fifo in the current directory. Without a fifo nothing is logged.
pub(crate) fn init(namespace: &str, debug: bool) {
    let opened =
        OpenOptions::new().read(true).write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(FIFO);
    let Ok(file) = opened else { return };
    let level = if debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let layer = Logfmt { file, namespace: namespace.to_owned() }.with_filter(level);
    let subscriber = Registry::default().with(layer);
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        return;
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
}

/// Writes each event as one line, with the fields of the spans around it.
struct Logfmt {
    file: File,
    namespace: String,
}

impl Logfmt {
    fn line(&self, at: SystemTime, level: Level, message: &str, fields: &str) -> String {
        let level = match level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let time = Rfc3339(at);
        let message = Quoted(message);
        let runtime = crate::RUNTIME_NAME;
        let namespace = Quoted(&self.namespace);
        format!("time=\"{time}\" level={level} msg={message}{fields} namespace={namespace} runtime={runtime}\n")
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Logfmt {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.rest.push_str(&outer.rest);
            }
        }
        let line = self.line(SystemTime::now(), *event.metadata().level(), &fields.message, &fields.rest);
        // One write for one line, so that those of several shims do not mix. A full pipe loses it, see above.
        (&self.file).write_all(line.as_bytes()).ok();
    }
}

/// ` key=value` for each field, and the message apart.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn push(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else if !value.is_empty() {
            // Writing to a String cannot fail.
            write!(self.rest, " {}={}", field.name(), Quoted(value)).ok();
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, &crate::error::chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, &format!("{value:?}"));
    }
}

/// Bare where logfmt allows it, else in quotes, with quotes and control characters escaped: a name in a message must
/// not end the line or the field.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |c: char| c.is_ascii_alphanumeric() || "-._/@^+:".contains(c);
        if !self.0.is_empty() && self.0.chars().all(bare) { f.write_str(self.0) } else { write!(f, "{:?}", self.0) }
    }
}

/// UTC with nanoseconds, as Go prints it.
struct Rfc3339(SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (days, second) = (seconds / 86400, seconds % 86400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
    }
}

/// Year, month and day of a day number since 1970, by eras of 400 years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> String {
        Rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
    }

    #[test]
    fn times_are_what_date_prints() {
        assert_eq!(at(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(1_793_000_000), "2026-10-26T07:33:20.000000000Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59.000000000Z");
    }

    #[test]
    fn a_value_cannot_forge_a_line() {
        assert_eq!(Quoted("web-1").to_string(), "web-1");
        assert_eq!(Quoted("").to_string(), "\"\"");
        assert_eq!(Quoted("a\nlevel=error \"b\"").to_string(), r#""a\nlevel=error \"b\"""#);
    }

    #[test]
    fn a_line_carries_the_fields_of_its_span() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let layer = Logfmt { file: file.reopen().unwrap(), namespace: "k8s.io".into() };
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            let span = tracing::info_span!("create", id = "web", exec_id = "");
            span.in_scope(|| tracing::warn!(path = "/a b", "no room"));
        });
        let line = std::fs::read_to_string(file.path()).unwrap();
        let expected =
            r#" level=warning msg="no room" path="/a b" id=web namespace=k8s.io runtime=io.containerd.rtc.v2"#;
        assert!(line.starts_with("time=\"20"), "{line}");
        assert!(line.trim_end().ends_with(expected), "{line}");
    }
}
