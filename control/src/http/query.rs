//! Query parameters that requests about objects may have. Pure.

use oarlock_api::catalogue::Kind;
use oarlock_api::selector::{FieldSelector, Selector};
use oarlock_api::status::{Cause, Status};
use oarlock_api::{convert, fields};

/// The parameters, decoded. Unknown ones are ignored, as upstream does.
#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

/// The longest name of a field manager.
const LONGEST_MANAGER: usize = 128;

/// What to do with fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// How fresh a list has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// As fresh as possible.
    Consistent,
    /// Whatever is there.
    Any,
    /// At least this revision.
    NotOlderThan(u64),
    /// Exactly this revision.
    Exact(u64),
}

impl Query {
    pub(super) fn parse(text: Option<&str>) -> Self {
        Self { pairs: form_urlencoded::parse(text.unwrap_or("").as_bytes()).into_owned().collect() }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter that is given several times.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// A switch: `true`, `1`, or the bare name.
    pub(super) fn flag(&self, name: &str) -> bool {
        let given = self.pairs.iter().find(|(key, _)| key == name);
        given.is_some_and(|(_, value)| matches!(value.as_str(), "" | "true" | "1" | "True"))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Status> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| Status::bad_request(format!("invalid value {text:?} of query parameter {name}")))
        };
        self.get(name).map(parse).transpose()
    }

    pub(super) fn dry_run(&self) -> Result<bool, Status> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(options_error(
                "dryRun",
                format!("Unsupported value: {other:?}: supported values: \"All\""),
            )),
        }
    }

    /// Servers since 1.25 warn unless they are told otherwise.
    pub(super) fn field_validation(&self) -> Result<FieldValidation, Status> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => {
                let words = "supported values: \"Ignore\", \"Strict\", \"Warn\"";
                Err(options_error("fieldValidation", format!("Unsupported value: {other:?}: {words}")))
            }
        }
    }

    /// Who writes: as the client says, else what its `User-Agent` begins with.
    pub(super) fn manager(&self, options: &str, user_agent: Option<&str>) -> Result<String, Status> {
        let Some(name) = self.get("fieldManager") else {
            let own = user_agent.unwrap_or("").split('/').next().unwrap_or("");
            let mut own: String = own.chars().filter(|c| !c.is_control()).collect();
            while own.len() > LONGEST_MANAGER {
                own.pop();
            }
            return Ok(if own.is_empty() { "unknown".to_owned() } else { own });
        };
        let field = "fieldManager";
        if name.len() > LONGEST_MANAGER {
            let why = format!("Too long: may not be more than {LONGEST_MANAGER} bytes");
            return Err(options_error_of(options, field, why));
        }
        if name.chars().any(char::is_control) {
            let why = format!("Invalid value: {name:?}: should only contain printable characters");
            return Err(options_error_of(options, field, why));
        }
        Ok(name.to_owned())
    }

    /// Whether an apply takes fields from others. Other patches do not ask.
    pub(super) fn force(&self, applies: bool) -> Result<bool, Status> {
        let patch = "PatchOptions";
        if applies && self.get("fieldManager").is_none() {
            let why = "Required value: is required for apply patch".to_owned();
            return Err(options_error_of(patch, "fieldManager", why));
        }
        if !applies && self.get("force").is_some() {
            let why = "Forbidden: may not be specified for non-apply patch".to_owned();
            return Err(options_error_of(patch, "force", why));
        }
        Ok(applies && self.flag("force"))
    }

    pub(super) fn labels(&self) -> Result<Selector, Status> {
        let text = self.get("labelSelector").unwrap_or("");
        Selector::parse(text).map_err(|e| Status::bad_request(format!("unable to parse requirement: {e}")))
    }

    /// The field selector of a version, about the stored form.
    pub(super) fn fields(&self, kind: &'static Kind) -> Result<FieldSelector, Status> {
        let selector = FieldSelector::parse(self.get("fieldSelector").unwrap_or(""))
            .map_err(|e| Status::bad_request(e.to_string()))?;
        let meant = |field: &str| {
            convert::field(kind, field).filter(|meant| fields::is_selectable(kind.stored(), meant))
        };
        if let Some(field) = selector.fields().find(|field| meant(field).is_none()) {
            return Err(Status::bad_request(format!("field label not supported: {field}")));
        }
        Ok(selector.renamed(|field| meant(field).unwrap_or_default()))
    }

    pub(super) fn version(&self) -> Result<Option<u64>, Status> {
        let parse = |text: &str| {
            let why = format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
            text.parse().map_err(|_| options_error("resourceVersion", why))
        };
        self.get("resourceVersion").map(parse).transpose()
    }

    /// Whether a watch starts with what there is: `None` leaves it to the resourceVersion. The rules of both parameters on a
    /// watch are upstream's.
    pub(super) fn initial_events(&self) -> Result<Option<bool>, Status> {
        let given = self.get("sendInitialEvents").map(|_| self.flag("sendInitialEvents"));
        let why = match (given, self.get("resourceVersionMatch")) {
            (None, None) | (Some(_), Some("NotOlderThan")) => return Ok(given),
            (None, Some(_)) => {
                "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            }
            (Some(_), None) => {
                "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            }
            (Some(_), Some(other)) => {
                &format!("Unsupported value: {other:?}: supported values: \"NotOlderThan\"")
            }
        };
        Err(options_error("resourceVersionMatch", why.to_owned()))
    }

    pub(super) fn freshness(&self) -> Result<Freshness, Status> {
        if self.get("sendInitialEvents").is_some() {
            let why = "Forbidden: sendInitialEvents is forbidden for list";
            return Err(options_error("sendInitialEvents", why.to_owned()));
        }
        let version = self.version()?;
        let paged = self.get("continue").is_some();
        if paged && version.is_some_and(|version| version > 0) {
            let why = "specifying resource version is not allowed when using continue";
            return Err(Status::bad_request(why));
        }
        let forbidden = |why: &str| Err(options_error("resourceVersionMatch", format!("Forbidden: {why}")));
        match (self.get("resourceVersionMatch"), version) {
            (Some(_), _) if paged => forbidden("resourceVersionMatch is forbidden when continue is provided"),
            (Some(_), None) => {
                forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided")
            }
            (Some("Exact"), Some(0)) => {
                forbidden("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"")
            }
            (Some("Exact"), Some(version)) => Ok(Freshness::Exact(version)),
            (Some("NotOlderThan"), Some(version)) => Ok(Freshness::NotOlderThan(version)),
            (Some(other), Some(_)) => {
                let words = "supported values: \"Exact\", \"NotOlderThan\"";
                Err(options_error("resourceVersionMatch", format!("Unsupported value: {other:?}: {words}")))
            }
            (None, None) => Ok(Freshness::Consistent),
            (None, Some(0)) => Ok(Freshness::Any),
            (None, Some(version)) if self.number("limit")?.is_some_and(|l| l > 0) && !paged => {
                Ok(Freshness::Exact(version))
            }
            (None, Some(version)) => Ok(Freshness::NotOlderThan(version)),
        }
    }
}

/// A 422 about a parameter, as upstream words it.
fn options_error(field: &str, message: String) -> Status {
    options_error_of("ListOptions", field, message)
}

pub(super) fn options_error_of(options: &str, field: &str, message: String) -> Status {
    let reason = match message.split(':').next() {
        Some("Forbidden") => "FieldValueForbidden",
        Some("Required value") => "FieldValueRequired",
        Some("Too long") => "FieldValueTooLong",
        Some("Unsupported value") => "FieldValueNotSupported",
        _ => "FieldValueInvalid",
    };
    let cause = Cause { reason: reason.to_owned(), message, field: field.to_owned() };
    Status::invalid_kind("meta.k8s.io", options, "", vec![cause])
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_api::catalogue::PODS;

    fn query(text: &str) -> Query {
        Query::parse(Some(text))
    }

    #[test]
    fn the_rules_of_resource_versions_are_upstreams() {
        let freshness = |text: &str| query(text).freshness();
        assert_eq!(freshness(""), Ok(Freshness::Consistent));
        assert_eq!(freshness("resourceVersion=0"), Ok(Freshness::Any));
        assert_eq!(freshness("resourceVersion=7"), Ok(Freshness::NotOlderThan(7)));
        assert_eq!(freshness("resourceVersion=7&limit=2"), Ok(Freshness::Exact(7)));
        assert_eq!(freshness("resourceVersion=7&resourceVersionMatch=Exact"), Ok(Freshness::Exact(7)));
        for bad in [
            "resourceVersionMatch=Exact",
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersion=x",
        ] {
            assert_eq!(freshness(bad).unwrap_err().code, 422, "{bad}");
        }
    }

    #[test]
    fn selectors_and_switches_are_checked() {
        assert!(
            query("watch").flag("watch")
                && query("watch=1").flag("watch")
                && !query("watch=false").flag("watch")
        );
        let error = query("fieldSelector=foo%3Dbar").fields(&PODS).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (400, "field label not supported: foo"));
        assert_eq!(query("labelSelector=a%20b").labels().unwrap_err().code, 400);
        assert_eq!(query("dryRun=Some").dry_run().unwrap_err().code, 422);
        assert_eq!(query("fieldValidation=Strict").field_validation(), Ok(FieldValidation::Strict));
    }
}
