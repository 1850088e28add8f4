//! OpenAPI documents of what is served: version 2 (JSON, and the protobuf that kubectl 1.20 asks for) and version 3 (one
//! document a group version).
//!
//! In: the catalogue and the field table. Out: documents as values or bytes. Only definitions that a served kind reaches are
//! in them; descriptions are left out. A document is a few hundred kilobytes: the caller keeps the bytes, not the value.

mod definitions;
mod gnostic;
mod operations;
mod v2;
mod v3;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::catalogue::Catalogue;
use crate::schema::Schema;

/// What clients ask for when they want version 2 as protobuf; newer ones spell the `@` as a dot.
pub const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// The documents of one catalogue.
#[derive(Debug)]
pub struct OpenApi<'c> {
    schema: &'static Schema,
    catalogue: &'c Catalogue,
    /// The program and the field table, hashed.
    seed: Sha256,
}

/// How a client wants the document of version 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V2Format {
    /// `application/json`
    Json,
    /// [`V2_PROTOBUF`]; answered as `application/octet-stream`, as upstream does.
    Protobuf,
}

impl V2Format {
    /// The first format in an Accept header that is known. `None`: 406. No header means JSON.
    pub fn accepted(accept: &str) -> Option<Self> {
        if accept.trim().is_empty() {
            return Some(Self::Json);
        }
        accept.split(',').find_map(|range| {
            let media_type = range.split(';').next().unwrap_or_default().trim();
            match media_type {
                "application/json" | "application/*" | "*/*" => Some(Self::Json),
                known if V2_PROTOBUF.contains(&known) => Some(Self::Protobuf),
                _ => None,
            }
        })
    }

    /// The answer's Content-Type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/octet-stream",
        }
    }
}

impl<'c> OpenApi<'c> {
    /// The documents of these kinds.
    pub fn new(catalogue: &'c Catalogue) -> Self {
        let seed =
            Sha256::new().chain_update(crate::SERVER_VERSION).chain_update(include_str!("schema/table.txt"));
        Self { schema: Schema::builtin(), catalogue, seed }
    }

    /// `/openapi/v2` as bytes of the wanted format.
    pub fn v2(&self, format: V2Format) -> Vec<u8> {
        let document = self.v2_value();
        match format {
            V2Format::Json => document.to_string().into_bytes(),
            V2Format::Protobuf => gnostic::encode(&document),
        }
    }

    /// `/openapi/v2` as a value.
    pub fn v2_value(&self) -> Value {
        v2::document(self.schema, self.catalogue)
    }

    /// `/openapi/v3`: where each group version's document is. The hash in the address changes when the document does.
    pub fn v3_index(&self) -> Value {
        let paths: serde_json::Map<String, Value> = self
            .group_versions()
            .map(|(group, version)| {
                let path = path_of(group, version);
                let hash = self.hash(group, version);
                let url = Self::v3_address(group, version, &hash);
                (path, json!({ "serverRelativeURL": url }))
            })
            .collect();
        json!({ "paths": paths })
    }

    /// Where a document is, by its hash.
    pub fn v3_address(group: &str, version: &str, hash: &str) -> String {
        format!("/openapi/v3/{}?hash={hash}", path_of(group, version))
    }

    /// `/openapi/v3/apis/<group>/<version>`; `None`: nothing is served there.
    pub fn v3(&self, group: &str, version: &str) -> Option<Value> {
        let mut served = self.group_versions();
        served
            .any(|gv| gv == (group, version))
            .then(|| v3::document(self.schema, self.catalogue, group, version))
    }

    /// Identifies a document's contents without making it: the version of the program and the rows behind it. Good as
    /// an ETag; with empty strings for the document of version 2.
    pub fn hash(&self, group: &str, version: &str) -> String {
        let mut hasher = self.seed.clone();
        for kind in self.catalogue.served() {
            if group.is_empty() && version.is_empty() || (kind.group, kind.version) == (group, version) {
                let subresources: Vec<_> =
                    kind.subresources.iter().map(|sub| (sub.name, sub.verbs)).collect();
                hasher.update(format!(
                    "{} {} {:?} {subresources:?}\n",
                    kind.api_version(),
                    kind.plural,
                    kind.verbs
                ));
            }
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
    }

    /// Every served group version, once, in the order of the catalogue.
    fn group_versions(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        operations::group_versions(self.catalogue).into_iter()
    }
}

/// `api/v1` or `apis/apps/v1`.
fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// What the two versions say differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// A reference to a definition.
    fn reference(self, definition: &str) -> Value {
        let place = match self {
            Self::V2 => "#/definitions",
            Self::V3 => "#/components/schemas",
        };
        json!({ "$ref": format!("{place}/{definition}") })
    }
}

#[cfg(test)]
mod tests;
