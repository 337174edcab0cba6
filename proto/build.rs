//! Compiles the .proto files with protox and ttrpc-codegen, so that no protoc is needed.

#![allow(clippy::print_stdout, reason = "how a build script talks to cargo")]

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=criu");
    println!("cargo:rerun-if-changed=containerd");
    println!("cargo:rerun-if-changed=rtc");
    let mut files = vec!["criu/rpc.proto", "criu/images.proto"];
    if cfg!(feature = "stream") {
        files.push("rtc/migration/v1/stream.proto");
    }
    prost_build::Config::new().compile_fds(protox::compile(files, ["."])?)?;
    #[cfg(feature = "containerd")]
    containerd()?;
    #[cfg(feature = "migration")]
    service("migration")?;
    #[cfg(feature = "pod")]
    service("pod")?;
    Ok(())
}

#[cfg(feature = "containerd")]
fn containerd() -> Result<(), Box<dyn Error>> {
    const FILES: [&str; 8] = [
        "containers.proto",
        "content.proto",
        "diff.proto",
        "images.proto",
        "leases.proto",
        "runc.proto",
        "snapshots.proto",
        "tasks.proto",
    ];
    let descriptors = protox::compile(FILES, ["containerd"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}

/// One of the shim's. The messages are rust-protobuf's there, as all of ttrpc's are in the shim.
#[cfg(any(feature = "migration", feature = "pod"))]
fn service(name: &str) -> Result<(), Box<dyn Error>> {
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join(name);
    std::fs::create_dir_all(&out)?;
    ttrpc_codegen::Codegen::new()
        .input(format!("rtc/{name}/v1/{name}.proto"))
        .include(format!("rtc/{name}/v1"))
        .rust_protobuf()
        .rust_protobuf_customize(ttrpc_codegen::ProtobufCustomize::default().gen_mod_rs(true))
        .customize(ttrpc_codegen::Customize { async_all: true, ..Default::default() })
        .out_dir(&out)
        .run()?;
    // `include!` takes no file with attributes of its own.
    for file in [format!("{name}.rs"), format!("{name}_ttrpc.rs")] {
        let path = out.join(file);
        let text = std::fs::read_to_string(&path)?;
        let lines = text.lines().filter(|line| !line.starts_with("#!") && !line.starts_with("//!"));
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n"))?;
    }
    Ok(())
}
