//! From `proto/node.proto` to Rust, without `protoc`: shared by the generator and by the test for drift.

use std::path::Path;

/// Compiles the protocol of `package` into files in `out`.
pub(crate) fn generate(package: &Path, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(["node.proto"], [package.join("proto")])?;
    let build = tonic_prost_build::configure().codec_path("crate::codec::LeanCodec");
    // What is seldom sent and large has no room in each of the frames that a connection of each of thousands of nodes has room for.
    let build = build.bytes(".oarlock.node.v1").boxed(".oarlock.node.v1.StreamFrame.frame.open");
    build.out_dir(out).compile_fds(descriptors)?;
    Ok(())
}
