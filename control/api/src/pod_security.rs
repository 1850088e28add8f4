//! The Pod Security Standards: which level a namespace's labels ask for, and what of a pod is against it, in upstream's words. Pure.
//!
//! Source: k8s.io/pod-security-admission.

mod checks;

use std::fmt;

use serde_json::Value;

const LABEL: &str = "pod-security.kubernetes.io/";
const LEVELS: [(&str, Level); 3] =
    [("privileged", Level::Privileged), ("baseline", Level::Baseline), ("restricted", Level::Restricted)];
/// More pods than these are not looked at when a namespace's level changes, as upstream.
const MOST: usize = 3000;

/// How much is forbidden; a higher level forbids more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Privileged,
    /// What is known to lead out of a container.
    Baseline,
    /// Whatever is not needed.
    Restricted,
}

/// A level as a version of Kubernetes had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    /// The level.
    pub level: Level,
    /// The minor version; none is the newest.
    version: Option<u32>,
}

/// What a namespace asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What pods are refused by.
    pub enforce: Standard,
    /// What is written to the log.
    pub audit: Standard,
    /// What clients are warned of: by itself, of what is enforced.
    pub warn: Standard,
}

/// A label that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLabel {
    /// Its name.
    pub label: String,
    /// What it says.
    pub value: String,
    /// What it may say.
    pub why: &'static str,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = LEVELS.iter().find(|(_, level)| *level == self.level).map_or("", |(name, _)| name);
        match self.version {
            None => write!(f, "{name}:latest"),
            Some(minor) => write!(f, "{name}:v1.{minor}"),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        let open = Standard { level: Level::Privileged, version: None };
        Self { enforce: open, audit: open, warn: open }
    }
}

impl Policy {
    /// The policy of a namespace. What cannot be read enforces the most, and neither warns nor is logged.
    #[must_use]
    pub fn of(namespace: &Value) -> Self {
        Self::read(namespace).0
    }

    /// Whether nothing is forbidden and nobody told.
    #[must_use]
    pub fn is_open(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|standard| standard.level == Level::Privileged)
    }

    fn read(namespace: &Value) -> (Self, Vec<BadLabel>) {
        let labels = &namespace["metadata"]["labels"];
        let (mut policy, mut bad) = (Self::default(), Vec::new());
        let modes = [
            ("enforce", &mut policy.enforce, Level::Restricted),
            ("audit", &mut policy.audit, Level::Privileged),
            ("warn", &mut policy.warn, Level::Privileged),
        ];
        let said = |label: &str| labels[label].as_str();
        for (mode, standard, otherwise) in modes {
            let label = format!("{LABEL}{mode}");
            if let Some(said) = said(&label) {
                let found = level(said);
                standard.level = found.unwrap_or(otherwise);
                if found.is_none() {
                    let why = "must be one of privileged, baseline, restricted";
                    bad.push(BadLabel { label: label.clone(), value: said.to_owned(), why });
                }
            }
            let label = format!("{label}-version");
            if let Some(said) = said(&label) {
                match version(said) {
                    Some(version) => standard.version = version,
                    None => bad.push(BadLabel {
                        label,
                        value: said.to_owned(),
                        why: "must be \"latest\" or \"v1.x\"",
                    }),
                }
            }
        }
        let enforced = said(&format!("{LABEL}enforce")).and_then(level).unwrap_or(Level::Privileged);
        if said(&format!("{LABEL}warn")).is_none() && enforced > policy.warn.level {
            // Whoever makes what makes pods should hear of it before the pods are refused.
            policy.warn.level = enforced;
            if said(&format!("{LABEL}warn-version")).is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, bad)
    }
}

fn level(said: &str) -> Option<Level> {
    LEVELS.iter().find(|(name, _)| *name == said).map(|(_, level)| *level)
}

/// `latest` is none, `v1.22` is 22.
fn version(said: &str) -> Option<Option<u32>> {
    if said == "latest" {
        return Some(None);
    }
    let minor = said.strip_prefix("v1.")?;
    let plain = minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
    minor.parse().ok().filter(|_| plain).map(Some)
}

/// The labels of a namespace that cannot be read.
#[must_use]
pub fn bad_labels(namespace: &Value) -> Vec<BadLabel> {
    Policy::read(namespace).1
}

/// What of a pod is against a standard: `privileged (container "c" must not set securityContext.privileged=true), ...`.
#[must_use]
pub fn violations(standard: Standard, metadata: &Value, spec: &Value) -> Option<String> {
    said(standard, metadata, spec, |finding| match finding.detail.as_str() {
        "" => finding.reason.clone(),
        detail => format!("{} ({detail})", finding.reason),
    })
}

fn said(
    standard: Standard,
    metadata: &Value,
    spec: &Value,
    shown: impl Fn(&checks::Finding) -> String,
) -> Option<String> {
    let found = checks::all(standard.level, standard.version.unwrap_or(u32::MAX), metadata, spec);
    (!found.is_empty()).then(|| found.iter().map(shown).collect::<Vec<_>>().join(", "))
}

/// Whether objects of a kind are pods, or make some.
#[must_use]
pub fn makes_pods(plural: &str) -> bool {
    matches!(plural, "pods" | "podtemplates" | "cronjobs") || has_template(plural)
}

fn has_template(plural: &str) -> bool {
    matches!(
        plural,
        "replicationcontrollers" | "replicasets" | "deployments" | "statefulsets" | "daemonsets" | "jobs"
    )
}

/// The metadata and the spec of the pods that an object makes, where it makes some.
#[must_use]
pub fn template<'v>(plural: &str, object: &'v Value) -> Option<(&'v Value, &'v Value)> {
    let template = match plural {
        "pods" => object,
        "podtemplates" => &object["template"],
        "cronjobs" => &object["spec"]["jobTemplate"]["spec"]["template"],
        plural if has_template(plural) => &object["spec"]["template"],
        _ => return None,
    };
    template["spec"].is_object().then(|| (&template["metadata"], &template["spec"]))
}

/// Whether an update of a pod changes what the standards look at: its images.
#[must_use]
pub fn is_significant(old: &Value, new: &Value) -> bool {
    let images = |pod: &Value| -> Vec<Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"].map(|list| &pod["spec"][list]);
        lists.into_iter().filter_map(Value::as_array).flatten().map(|c| c["image"].clone()).collect()
    };
    images(old) != images(new)
}

/// What whoever changes a namespace's level is warned of: pods that are against what is enforced from now on.
#[must_use]
pub fn warnings_of_change(
    old: &Value,
    new: &Value,
    pods: impl FnOnce() -> Vec<std::sync::Arc<Value>>,
) -> Vec<String> {
    let (was, is) = (Policy::of(old).enforce, Policy::of(new).enforce);
    let relaxed = is.version == was.version && is.level <= was.level;
    if was == is || is.level == Level::Privileged || relaxed {
        return Vec::new();
    }
    let pods = pods();
    let pods = one_of_each_first(&pods);
    let mut by_reason: Vec<(String, Vec<&str>)> = Vec::new();
    for pod in pods.iter().take(MOST) {
        let reasons = said(is, &pod["metadata"], &pod["spec"], |finding| finding.reason.clone());
        let (Some(reasons), name) = (reasons, crate::meta::name(pod)) else { continue };
        match by_reason.iter_mut().find(|(known, _)| *known == reasons) {
            Some((_, names)) => names.push(name),
            None => by_reason.push((reasons, vec![name])),
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > MOST {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MOST} of {} existing pods",
            pods.len()
        ));
    }
    if !by_reason.is_empty() {
        let name = crate::meta::name(new);
        let level = is.to_string();
        warnings.push(format!(
            "existing pods in namespace {name:?} violate the new PodSecurity enforce level {level:?}"
        ));
    }
    let mut of_pods: Vec<String> =
        by_reason.into_iter().map(|(reasons, names)| shared(&reasons, names)).collect();
    of_pods.sort();
    warnings.extend(of_pods);
    warnings
}

/// Where not all pods are looked at, one of each controller is: those that follow are like it.
fn one_of_each_first(pods: &[std::sync::Arc<Value>]) -> Vec<&Value> {
    let mut seen = std::collections::HashSet::new();
    let (mut first, mut others) = (Vec::new(), Vec::new());
    for pod in pods {
        let controller = crate::meta::controller_of(pod).map(|controller| &controller["uid"]);
        let is_like = controller.is_some_and(|uid| !seen.insert(uid));
        if is_like { others.push(&**pod) } else { first.push(&**pod) }
    }
    first.extend(others);
    first
}

/// `a (and 2 other pods): hostPort`.
fn shared(reasons: &str, mut names: Vec<&str>) -> String {
    names.sort_unstable();
    let first = names.first().unwrap_or(&"");
    match names.len() {
        0 | 1 => format!("{first}: {reasons}"),
        2 => format!("{first} (and 1 other pod): {reasons}"),
        more => format!("{first} (and {} other pods): {reasons}", more - 1),
    }
}

#[cfg(test)]
mod tests;
