//! Who is measured.

use containerd_shim_protos::shim::oci::Options;
use protobuf::Message;
use protobuf::well_known_types::any::Any;

/// A shim with a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contestant {
    Rtc,
    Runc,
    Crun,
}

impl Contestant {
    pub(crate) const ALL: [Self; 3] = [Self::Rtc, Self::Runc, Self::Crun];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rtc => "rtc",
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }

    pub(crate) fn shim_binary(self) -> &'static str {
        match self {
            Self::Rtc => "containerd-shim-rtc-v2",
            Self::Runc | Self::Crun => "containerd-shim-runc-v2",
        }
    }

    pub(crate) fn ctr_flags(self) -> &'static [&'static str] {
        match self {
            Self::Rtc => &["--runtime", "io.containerd.rtc.v2"],
            Self::Runc => &["--runtime", "io.containerd.runc.v2"],
            Self::Crun => &["--runtime", "io.containerd.runc.v2", "--runc-binary", "crun"],
        }
    }

    /// Create's `options`, as containerd sends them.
    pub(crate) fn create_options(self) -> Result<Any, protobuf::Error> {
        let mut options = Options::new();
        if self == Self::Crun {
            options.binary_name = "crun".to_owned();
        }
        Ok(Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: options.write_to_bytes()?,
            ..Default::default()
        })
    }
}
