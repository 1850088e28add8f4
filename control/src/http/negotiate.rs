//! Which form of an answer a client wants. Pure.

use oarlock_api::status::Status;

/// How objects are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The objects themselves.
    Objects,
    /// `meta.k8s.io` Table of this version.
    Table(&'static str),
    /// `meta.k8s.io` PartialObjectMetadata(List) of this version.
    Metadata(&'static str),
}

/// A form, and whether it is wanted in protobuf where it has that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) form: Form,
    pub(super) is_protobuf: bool,
}

/// The first range of an Accept header that we can answer; JSON without one.
pub(super) fn form(accept: Option<&str>) -> Result<Form, Status> {
    wanted(accept).map(|wanted| wanted.form).ok_or_else(not_acceptable)
}

/// The refusal of a form in which something cannot be answered.
pub(super) fn not_acceptable() -> Status {
    Status::not_acceptable(
        "application/json, application/json;as=Table;v=v1;g=meta.k8s.io, application/vnd.kubernetes.protobuf",
    )
}

/// Whether that is one of protobuf.
pub(super) fn is_protobuf(accept: Option<&str>) -> bool {
    wanted(accept).is_some_and(|wanted| wanted.is_protobuf)
}

fn wanted(accept: Option<&str>) -> Option<Wanted> {
    let accept = accept.unwrap_or("").trim();
    if accept.is_empty() {
        return Some(Wanted { form: Form::Objects, is_protobuf: false });
    }
    accept.split(',').find_map(range)
}

fn range(range: &str) -> Option<Wanted> {
    let mut parts = range.split(';').map(str::trim);
    let is_protobuf = match parts.next()? {
        "application/json" | "application/*" | "*/*" => false,
        "application/vnd.kubernetes.protobuf" => true,
        _ => return None,
    };
    let (mut form, mut version) = ("", "");
    for (key, value) in parts.filter_map(|p| p.split_once('=')) {
        match key {
            "as" => form = value,
            "v" => version = value,
            "g" if value != "meta.k8s.io" => return None,
            _ => {}
        }
    }
    let version = match version {
        "v1" | "" => "v1",
        "v1beta1" => "v1beta1",
        _ => return None,
    };
    let form = match form {
        "" => Form::Objects,
        // Its cells are JSON.
        "Table" if !is_protobuf => Form::Table(version),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Form::Metadata(version),
        _ => return None,
    };
    Some(Wanted { form, is_protobuf })
}

/// Whether a client takes aggregated discovery, and in which version: `v2` or `v2beta1`.
pub(super) fn aggregated(accept: Option<&str>) -> Option<&'static str> {
    for range in accept.unwrap_or("").split(',') {
        let has = |wanted: &str| range.split(';').any(|part| part.trim() == wanted);
        if has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList") {
            if has("v=v2") {
                return Some("v2");
            }
            if has("v=v2beta1") {
                return Some("v2beta1");
            }
        } else if has("application/json") {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubectl_sends_is_understood() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(Some(table)), Ok(Form::Table("v1")));
        assert_eq!(form(Some("application/vnd.kubernetes.protobuf,application/json")), Ok(Form::Objects));
        assert_eq!(form(Some("*/*")), Ok(Form::Objects));
        assert_eq!(form(None), Ok(Form::Objects));
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(form(Some(metadata)), Ok(Form::Metadata("v1")));
        assert_eq!(form(Some("text/html")).unwrap_err().code, 406);
    }

    #[test]
    fn the_first_range_that_is_served_decides() {
        let coding = |accept: &str| (form(Some(accept)).unwrap(), is_protobuf(Some(accept)));
        let protobuf = "application/vnd.kubernetes.protobuf";
        assert_eq!(coding(&format!("{protobuf},application/json")), (Form::Objects, true));
        assert_eq!(coding(&format!("application/json, {protobuf}")), (Form::Objects, false));
        assert_eq!(coding(&format!("application/cbor,{protobuf}")), (Form::Objects, true));
        let metadata = format!("{protobuf};as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json");
        assert_eq!(coding(&metadata), (Form::Metadata("v1"), true));
        let table =
            format!("{protobuf};as=Table;g=meta.k8s.io;v=v1,application/json;as=Table;g=meta.k8s.io;v=v1");
        assert_eq!(coding(&table), (Form::Table("v1"), false));
        assert!(!is_protobuf(None) && !is_protobuf(Some("*/*")));
    }

    #[test]
    fn aggregated_discovery_is_only_for_those_who_ask() {
        let modern = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated(Some(modern)), Some("v2"));
        assert_eq!(aggregated(Some("application/json")), None);
        assert_eq!(aggregated(None), None);
    }
}
