//! The generated code in git is what the protocol file yields.

#[path = "generated/proto_compiler.rs"]
mod proto_compiler;

use std::path::Path;

#[test]
fn the_generated_protocol_is_up_to_date() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    proto_compiler::generate(package, folder.path()).unwrap();
    let name = "oarlock.node.v1.rs";
    let fresh = std::fs::read_to_string(folder.path().join(name)).unwrap();
    let kept = std::fs::read_to_string(package.join("src/gen").join(name)).unwrap();
    assert!(fresh == kept, "src/gen/{name} is out of date: run `cargo xtask proto`");
}
