//! `containerd-shim-rtc-v2`.

mod io;

fn main() {}
