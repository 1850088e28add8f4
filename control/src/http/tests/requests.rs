//! Whole requests, made of what clients send with something wrong in it, against the whole server: refused, perhaps, but never a panic,
//! a failure of the server, or an answer that breaks off.
//!
//! An input is one request or several after each other: a line of method and path, headers, an empty line, the body; `###` stands
//! between them, as in files of HTTP clients.

use oarlock_api::catalogue::{Catalogue, Kind};
use oarlock_fuzz::Target;

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/api/tests/fixtures/kubectl-1.33");
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const PATCH: &str = "application/json-patch+json";
/// A server has done its duty after so many inputs: what they have left behind goes with it.
const LIFE: usize = 2_000;
/// Nobody sends more in one input.
const MOST: usize = 8;

fn base(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let namespace = if kind.namespaced { "namespaces/d/" } else { "" };
    format!("{group}/{}/{namespace}{}", kind.version, kind.plural)
}

fn request(method: &str, path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path}\ncontent-type: {content_type}\n\n");
    [head.as_bytes(), body].concat()
}

/// For every recorded kind: its creation in three encodings, replacing it, four kinds of patches of it, each after its creation, and its
/// end.
fn recorded() -> Vec<Vec<u8>> {
    let catalogue = Catalogue::builtin();
    let mut names: Vec<_> = std::fs::read_dir(FIXTURES).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    names.sort();
    let mut inputs = Vec::new();
    for path in names {
        let object: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let kind = catalogue.by_kind(version, kind).unwrap();
        let one = format!("{}/{}", base(kind), object["metadata"]["name"].as_str().unwrap());
        let json = object.to_string().into_bytes();
        let yaml = serde_yaml::to_string(&object).unwrap().into_bytes();
        let patch = json!([{"op": "test", "path": "/metadata/name", "value": object["metadata"]["name"]},
            {"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}, {"op": "copy", "from": "/metadata", "path": "/spec"},
            {"op": "remove", "path": "/data"}]);
        let create = request("POST", &base(kind), JSON, &json);
        inputs.push(create.clone());
        inputs.push(request("POST", &base(kind), YAML, &yaml));
        inputs.push(request(
            "POST",
            &base(kind),
            PROTOBUF,
            &std::fs::read(path.with_extension("pb")).unwrap(),
        ));
        let options = br#"{"propagationPolicy":"Orphan","preconditions":{"uid":"x"}}"#;
        for then in [
            request("PUT", &one, JSON, &json),
            request("PATCH", &one, MERGE, &json),
            request("PATCH", &one, STRATEGIC, &json),
            request("PATCH", &one, PATCH, patch.to_string().as_bytes()),
            request("PATCH", &format!("{one}?fieldManager=m&force=true"), APPLY, &yaml),
            request("DELETE", &one, JSON, options),
            request("GET", &base(kind), JSON, b""),
        ] {
            inputs.push(then.clone());
            inputs.push([create.as_slice(), b"\n###\n", then.as_slice()].concat());
        }
    }
    inputs
}

/// A request out of an input.
struct Sent<'i> {
    method: &'i str,
    path: &'i str,
    headers: Vec<(&'i str, &'i str)>,
    body: &'i [u8],
}

impl<'i> Sent<'i> {
    /// None where HTTP would not carry it.
    fn parse(input: &'i [u8]) -> Option<Self> {
        let (head, body) = cut(input, b"\n\n").unwrap_or((input, b""));
        let mut lines = std::str::from_utf8(head).ok()?.lines();
        let (method, path) = lines.next()?.split_once(' ')?;
        method.parse::<Method>().ok()?;
        path.parse::<http::Uri>().ok().filter(|uri| uri.path().starts_with('/'))?;
        let header = |line: &'i str| {
            let (name, value) = line.split_once(": ")?;
            name.parse::<http::HeaderName>().ok()?;
            HeaderValue::from_str(value).ok()?;
            Some((name, value))
        };
        Some(Self { method, path, headers: lines.map(header).collect::<Option<_>>()?, body })
    }

    /// Whether it hands a group of APIs to somebody who is not there: what is of it is answered by nobody (503), and rightly.
    fn hands_away(&self) -> bool {
        self.path.contains("apiservices") && self.method != "GET"
    }

    /// Whether it would have to wait for a version that is never written: refused after seconds, which is no news.
    fn waits(&self, revision: u64) -> bool {
        let query = Query::parse(self.path.split_once('?').map(|(_, query)| query));
        query
            .all("resourceVersion")
            .iter()
            .any(|version| version.parse::<u64>().is_ok_and(|version| version > revision))
    }
}

fn cut<'i>(input: &'i [u8], at: &[u8]) -> Option<(&'i [u8], &'i [u8])> {
    let start = input.windows(at.len()).position(|window| window == at)?;
    Some((&input[..start], &input[start + at.len()..]))
}

/// Its code, and what is ready of the answer: watches go on.
async fn answered(api: &Api, sent: &Sent<'_>) -> u16 {
    let answer = api.open(sent.method, sent.path, &sent.headers, Bytes::copy_from_slice(sent.body)).await;
    let code = answer.status().as_u16();
    let mut body = answer.into_body();
    loop {
        match tokio::time::timeout(Duration::from_millis(5), body.frame()).await {
            Ok(Some(frame)) => drop(frame.unwrap_or_else(|error| panic!("the answer breaks off: {error}"))),
            Ok(None) | Err(_) => return code,
        }
    }
}

#[test]
fn fuzz_requests() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut codes = std::collections::BTreeMap::<u16, usize>::new();
    let (mut server, mut age) = (runtime.block_on(api()), 0);
    Target::new("requests").with(recorded()).mutations(1_500).run(|input| {
        age += 1;
        if age % LIFE == 0 {
            server.fixture.tasks.shut_down();
            server = runtime.block_on(api());
        }
        let (mut rest, mut count) = (Some(input), 0);
        while let Some(input) = rest.filter(|_| count < MOST) {
            let (one, others) =
                cut(input, b"\n###\n").map_or((input, None), |(one, others)| (one, Some(others)));
            (rest, count) = (others, count + 1);
            let revision = server.fixture.registry.cache().revision().0;
            let Some(sent) = Sent::parse(one).filter(|sent| !sent.waits(revision) && !sent.hands_away())
            else {
                continue;
            };
            let code = runtime.block_on(answered(&server, &sent));
            assert!(
                code < 500,
                "{code} for {} {} {:?}\n{}",
                sent.method,
                sent.path,
                sent.headers,
                sent.body.escape_ascii()
            );
            *codes.entry(code).or_default() += 1;
        }
    });
    println!("{codes:?}");
    assert!([200, 201, 400, 404, 409, 415, 422].iter().all(|code| codes.contains_key(code)), "{codes:?}");
}
