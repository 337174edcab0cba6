//! See the library of this package, which is a library so that `fuzz` reaches its parsers.

use std::process::ExitCode;

fn main() -> ExitCode {
    containerd_shim_rtc_v2::main()
}
