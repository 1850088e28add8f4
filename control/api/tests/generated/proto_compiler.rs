//! From `proto/node.proto` to Rust, without `protoc`: shared by the generator and by the test for drift.

use std::path::Path;

/// Compiles the protocol of `package` into files in `out`.
pub(crate) fn generate(package: &Path, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(["node.proto"], [package.join("proto")])?;
    let build = tonic_prost_build::configure().codec_path("crate::codec::LeanCodec");
    build.out_dir(out).bytes(".oarlock.node.v1").compile_fds(descriptors)?;
    Ok(())
}
