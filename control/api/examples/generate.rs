//! Writes `src/gen/` from `proto/`. Run by `cargo xtask proto`; `tests/generated.rs` fails when it was forgotten.

use std::path::Path;

#[path = "../tests/generated/proto_compiler.rs"]
mod proto_compiler;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    proto_compiler::generate(package, &package.join("src/gen"))
}
