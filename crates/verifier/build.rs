//! Compiles what the feed says (`proto/` of the workspace) into `OUT_DIR`, without protoc, for the feature `feed` alone.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "feed")]
    compile()?;
    Ok(())
}

#[cfg(feature = "feed")]
#[allow(clippy::print_stdout, reason = "how a build script talks to cargo")]
fn compile() -> Result<(), Box<dyn std::error::Error>> {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let files = ["feed", "directory"].map(|file| format!("taskpass/v1/{file}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={proto}/{file}");
    }
    let descriptors = protox::compile(files, [proto])?;
    tonic_prost_build::configure().bytes(".").build_server(false).compile_fds(descriptors)?;
    Ok(())
}
