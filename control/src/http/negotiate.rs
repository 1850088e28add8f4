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

/// The first range of an Accept header that we can answer; JSON without one.
pub(super) fn form(accept: Option<&str>) -> Result<Form, Status> {
    let accept = accept.unwrap_or("").trim();
    if accept.is_empty() {
        return Ok(Form::Objects);
    }
    accept.split(',').find_map(range).ok_or_else(|| {
        Status::not_acceptable("application/json, application/json;as=Table;v=v1;g=meta.k8s.io")
    })
}

fn range(range: &str) -> Option<Form> {
    let mut parts = range.split(';').map(str::trim);
    if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
        return None;
    }
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
    match form {
        "" => Some(Form::Objects),
        "Table" => Some(Form::Table(version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::Metadata(version)),
        _ => None,
    }
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
    fn aggregated_discovery_is_only_for_those_who_ask() {
        let modern = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated(Some(modern)), Some("v2"));
        assert_eq!(aggregated(Some("application/json")), None);
        assert_eq!(aggregated(None), None);
    }
}
