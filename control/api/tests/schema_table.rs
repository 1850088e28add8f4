//! The field table in the repository is what the generator writes today. In: the sources of k8s-pb and k8s-openapi of the
//! lock file. When it fails: run `cargo xtask schema` and read the difference.

#[path = "../examples/generate_schema/generate.rs"]
mod generate;

use std::path::Path;

#[test]
fn table_is_generated_from_the_sources_of_the_lock_file() {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let expected = generate::table(crate_root).unwrap();
    let actual = std::fs::read_to_string(crate_root.join("src/schema/table.txt")).unwrap();
    for (number, (actual, expected)) in actual.lines().zip(expected.lines()).enumerate() {
        assert_eq!(actual, expected, "line {} of table.txt; run `cargo xtask schema`", number + 1);
    }
    assert_eq!(actual.len(), expected.len(), "table.txt is cut; run `cargo xtask schema`");
}
