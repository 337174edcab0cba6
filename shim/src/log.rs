//! The log: lines as containerd's own shims write them, to the fifo `log` in the bundle, which containerd copies into
//! its own log.
//!
//! The fifo is opened for reading too and never waited for: when containerd is away, lines stay in the pipe until it is
//! full and are lost then, but the shim never hangs or dies of them.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use runtime_core::time::Rfc3339;
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
        format!("time=\"{time:.9}\" level={level} msg={message}{fields} namespace={namespace} runtime={runtime}\n")
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

#[cfg(test)]
mod tests {
    use super::*;

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
