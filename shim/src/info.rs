//! What `-v` and `-info` tell about the runtime.

use std::io::{Read, Write};

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::RUNTIME_NAME;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// For people.
///
/// # Errors
/// stdout's.
pub(crate) fn print_version() -> std::io::Result<()> {
    writeln!(std::io::stdout(), "containerd-shim-rtc-v2:\n  Version:  {VERSION}\n")
}

/// For containerd: reads the runtime's options (an `Any`) from stdin and prints a `RuntimeInfo`.
///
/// # Errors
/// stdin's and stdout's.
pub(crate) fn print_info() -> std::io::Result<()> {
    let mut options = Vec::new();
    std::io::stdin().lock().read_to_end(&mut options)?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&info(&options).write_to_bytes()?)?;
    stdout.flush()
}

fn info(options: &[u8]) -> RuntimeInfo {
    let options = Any::parse_from_bytes(options).ok().filter(|any| !any.type_url.is_empty());
    let version = RuntimeVersion { version: VERSION.to_owned(), ..RuntimeVersion::default() };
    RuntimeInfo {
        name: RUNTIME_NAME.to_owned(),
        version: Some(version).into(),
        options: protobuf::MessageField::from_option(options),
        ..RuntimeInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_echoed() {
        let any = Any { type_url: "containerd.runc.v1.Options".into(), ..Any::default() };
        let info = info(&any.write_to_bytes().unwrap());
        assert_eq!(info.name, "io.containerd.rtc.v2");
        assert_eq!(info.options.type_url, "containerd.runc.v1.Options");
    }

    #[test]
    fn without_options_there_are_none() {
        assert!(info(&[]).options.is_none());
    }
}
