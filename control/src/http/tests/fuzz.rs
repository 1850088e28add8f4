//! Requests made of random words: refused, perhaps, but never a failure of the server.

use proptest::prelude::*;

use super::*;

/// Words that paths and queries are made of, and some that they are not.
const WORDS: &[&str] = &[
    "api",
    "apis",
    "v1",
    "apps",
    "batch",
    "v1beta1",
    "cronjobs",
    "v2",
    "namespaces",
    "d",
    "none",
    "pods",
    "deployments",
    "services",
    "nodes",
    "watch",
    "log",
    "exec",
    "attach",
    "portforward",
    "proxy",
    "status",
    "scale",
    "binding",
    "finalize",
    "openapi",
    "v3",
    "healthz",
    "%2e%2e",
    "..",
    "%00",
    "%ff",
    "",
    "p",
    "x y",
    "events",
];
const PARAMETERS: &[&str] = &[
    "watch=true",
    "limit=1",
    "limit=-1",
    "limit=x",
    "continue=abc",
    "continue=e30",
    "resourceVersion=0",
    "resourceVersion=-1",
    "resourceVersionMatch=Exact",
    "labelSelector=a in (b",
    "labelSelector=a%3Db",
    "fieldSelector=metadata.name%3Da",
    "fieldSelector=a%3D%3D%3D",
    "timeoutSeconds=99999999999999999999",
    "timeoutSeconds=1",
    "dryRun=All",
    "dryRun=x",
    "pretty=1",
    "propagationPolicy=Sideways",
    "gracePeriodSeconds=-1",
    "fieldValidation=x",
    "sendInitialEvents=true",
    "includeObject=x",
    "fieldManager=ci",
    "force=true",
    "&&=",
];

#[test]
fn no_request_is_answered_with_a_failure_of_the_server() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let api = runtime.block_on(api());
    let words = prop::collection::vec(prop::sample::select(WORDS), 0..9);
    let parameters = prop::collection::vec(prop::sample::select(PARAMETERS), 0..4);
    let method =
        prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"]);
    let body = prop::sample::select(vec![
        "",
        "{}",
        "[]",
        "{",
        "null",
        r#"{"metadata":{"name":"p"}}"#,
        r#"{"metadata":{"name":"p","finalizers":["a",{},null]},"spec":{"containers":[{"name":"c"},7,{}]}}"#,
        r#"{"metadata":{"managedFields":[{"fieldsV1":{"k:{":{}}}]},"spec":{"ports":[{"port":1}]}}"#,
        r#"{"metadata":7}"#,
        r#"[{"op":"add","path":"/x","value":1}]"#,
    ]);
    let types = prop::sample::select(vec![
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
        "x",
        "",
    ]);
    let accept =
        prop::sample::select(vec!["", "*/*", TABLE, "application/json;as=Table;v=v9", "text/html", ";;,,"]);
    let config = ProptestConfig { cases: 600, ..ProptestConfig::default() };
    proptest!(config, |(words in words, parameters in parameters, method in method, body in body, types in types, accept in accept)| {
        let path = format!("/{}?{}", words.join("/"), parameters.join("&")).replace(' ', "+");
        prop_assume!(path.parse::<http::Uri>().is_ok());
        let headers = [("content-type", types), ("accept", accept)];
        let code = runtime.block_on(api.open(method, &path, &headers, Bytes::from(body))).status().as_u16();
        prop_assert!(code < 500, "{method} {path} {types} {body}: {code}");
    });
}
