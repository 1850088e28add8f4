//! Writes `control/api/src/schema/table.txt`, the field table of every Kubernetes message (`cargo xtask schema`).
//!
//! In: the sources of `k8s-pb` and `k8s-openapi` (found through `cargo metadata`) and `facts.txt`. Out: the table.
//! The test `schema_table` runs the same code and compares.
#![forbid(unsafe_code)]

// Said with a path, as in the test, so that the modules below it are found in both.
#[path = "generate.rs"]
mod generate;

fn main() -> Result<(), String> {
    let crate_root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = generate::table(crate_root)?;
    let path = crate_root.join("src/schema/table.txt");
    std::fs::write(&path, table).map_err(|e| format!("cannot write {}: {e}", path.display()))
}
