//! Compiles the .proto files with protox, so that no protoc is needed.

#![allow(clippy::print_stdout, reason = "how a build script talks to cargo")]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 2] = ["criu/rpc.proto", "criu/images.proto"];
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
