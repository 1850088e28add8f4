//! What kubectl 1.33 sends for typed creates, recorded at a local HTTP server (`*.pb`), decodes into what the same
//! command prints with `--dry-run=client -o json` (`*.json`), but for the nulls.

use std::path::Path;

use oarlock_api::schema::{Schema, is_protobuf};
use serde_json::Value;

/// Name, what was sent, and what was printed.
type Fixture = (String, Vec<u8>, Value);

fn fixtures() -> std::io::Result<Vec<Fixture>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kubectl-1.33");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pb") {
            let expected = serde_json::from_slice(&std::fs::read(path.with_extension("json"))?)?;
            found.push((path.display().to_string(), std::fs::read(&path)?, expected));
        }
    }
    Ok(found)
}

#[test]
fn recorded_bodies_decode_into_what_kubectl_prints() {
    let schema = Schema::builtin();
    let fixtures = fixtures().unwrap();
    assert_eq!(fixtures.len(), 16);
    for (name, bytes, mut expected) in fixtures {
        assert!(is_protobuf(&bytes));
        let body = schema.decode_body(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        schema.prune(body.message, &mut expected);
        similar_asserts::assert_eq!(body.object, expected, "{name}");
    }
}

#[test]
fn recorded_bodies_pass_the_strict_check() {
    let schema = Schema::builtin();
    for (name, bytes, _) in fixtures().unwrap() {
        let body = schema.decode_body(&bytes).unwrap();
        assert_eq!(schema.check(body.message, &body.object), Default::default(), "{name}");
    }
}

#[test]
fn recorded_bodies_that_are_cut_or_damaged_are_refused_or_differ_but_never_panic() {
    let schema = Schema::builtin();
    for (_, bytes, _) in fixtures().unwrap() {
        for cut in 0..bytes.len() {
            // A cut between two fields of the envelope is a shorter, valid body.
            let _ = schema.decode_body(&bytes[..cut]);
            let mut damaged = bytes.clone();
            for bit in 0..8 {
                damaged[cut] ^= 1 << bit;
                let _ = schema.decode_body(&damaged);
            }
        }
        assert!(schema.decode_body(&bytes[..bytes.len() - 3]).is_err());
    }
}

#[test]
fn what_was_recorded_is_written_so_that_it_reads_the_same() {
    let schema = Schema::builtin();
    for (name, bytes, _) in fixtures().unwrap() {
        let object = schema.decode_body(&bytes).unwrap().object;
        let written = schema.encode_body(&object).unwrap_or_else(|error| panic!("{name}: {error}"));
        similar_asserts::assert_eq!(schema.decode_body(&written).unwrap().object, object, "{name}");
    }
}
