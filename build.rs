//! Compiles `proto/` into `OUT_DIR` without protoc.

#![allow(clippy::print_stdout, reason = "how a build script talks to cargo")]

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["task", "credential", "validation", "operator", "directory", "feed", "key"]
        .map(|f| format!("taskpass/v1/{f}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("taskpass.descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::proto::SmallBuffers")
        .compile_fds(descriptors)?;
    Ok(())
}
