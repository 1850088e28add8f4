//! Probes and lifecycle hooks of containers.

use serde_json::{Value, json};

use super::pod::port_name;
use super::{Errors, list, text};

/// Signals that may end a container, but those of real time.
const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// Probes and hooks of one container; init containers have none.
pub(super) fn check(errors: &mut Errors, path: &str, container: &Value, is_init: bool, spec: &Value) {
    let grace = spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let present = |field: &str| container.get(field).filter(|v| !v.is_null());
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(value) = present(field) else { continue };
        let path = format!("{path}.{field}");
        if is_init {
            errors.forbidden(path, "may not be set for init containers without restartPolicy=Always");
        } else if field == "lifecycle" {
            lifecycle(errors, &path, value, grace);
            stop_signal(errors, &format!("{path}.stopSignal"), &value["stopSignal"], &spec["os"]);
        } else {
            probe(errors, &path, value);
            let own = &value["terminationGracePeriodSeconds"];
            if field == "readinessProbe" && !own.is_null() {
                errors.invalid(
                    format!("{path}.terminationGracePeriodSeconds"),
                    own,
                    "must not be set for readinessProbes",
                );
            } else if own.as_i64().is_some_and(|seconds| seconds < 1) {
                errors.invalid(
                    format!("{path}.terminationGracePeriodSeconds"),
                    own,
                    "must be greater than 0",
                );
            }
            if field != "readinessProbe" && value["successThreshold"].as_i64().is_some_and(|t| t != 1) {
                let threshold = &value["successThreshold"];
                errors.invalid(format!("{path}.successThreshold"), threshold, "must be 1");
            }
        }
    }
}

fn probe(errors: &mut Errors, path: &str, probe: &Value) {
    handler(errors, path, probe, &["exec", "httpGet", "tcpSocket", "grpc"]);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        errors.not_negative(&format!("{path}.{field}"), &probe[field]);
    }
}

fn lifecycle(errors: &mut Errors, path: &str, lifecycle: &Value, grace: i64) {
    for hook in ["postStart", "preStop"] {
        let Some(value) = lifecycle.get(hook).filter(|v| !v.is_null()) else { continue };
        let path = format!("{path}.{hook}");
        // Upstream takes tcpSocket here for old times' sake and fails when it runs.
        if value.get("tcpSocket").is_some_and(|v| !v.is_null()) {
            errors.unsupported(format!("{path}.tcpSocket"));
            continue;
        }
        handler(errors, &path, value, &["exec", "httpGet", "sleep"]);
        let seconds = &value["sleep"]["seconds"];
        if seconds.as_i64().is_some_and(|s| s < 0 || s > grace) {
            let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            errors.invalid(format!("{path}.sleep"), seconds, why);
        }
    }
}

/// Which signals there are depends on the system, which the pod has to name.
fn stop_signal(errors: &mut Errors, path: &str, signal: &Value, os: &Value) {
    let Some(name) = signal.as_str() else { return };
    if text(os, "name").is_empty() {
        errors.forbidden(path, "may not be set for containers with empty `spec.os.name`");
    } else if !SIGNALS.contains(&name) && !is_of_real_time(name) {
        errors.one_of(path, signal, SIGNALS);
    }
}

/// `SIGRTMIN`, `SIGRTMIN+15`, `SIGRTMAX-14`, `SIGRTMAX`.
fn is_of_real_time(name: &str) -> bool {
    let within = |number: &str, most: u8| number.parse().is_ok_and(|number: u8| (1..=most).contains(&number));
    match (name.strip_prefix("SIGRTMIN"), name.strip_prefix("SIGRTMAX")) {
        (Some(""), _) | (_, Some("")) => true,
        (Some(rest), _) => rest.strip_prefix('+').is_some_and(|number| within(number, 15)),
        (_, Some(rest)) => rest.strip_prefix('-').is_some_and(|number| within(number, 14)),
        (None, None) => false,
    }
}

/// Exactly one way, and what it needs.
fn handler(errors: &mut Errors, path: &str, value: &Value, known: &[&str]) {
    let present = |h: &&&str| value.get(**h).is_some_and(|v| !v.is_null());
    let handlers: Vec<&str> = known.iter().filter(present).copied().collect();
    let Some((_, more)) = handlers.split_first() else {
        errors.required(path, "must specify a handler type");
        return;
    };
    for handler in more {
        errors.forbidden(format!("{path}.{handler}"), "may not specify more than 1 handler type");
    }
    if handlers.contains(&"exec") && list(&value["exec"], "command").is_empty() {
        errors.required(format!("{path}.exec.command"), "");
    }
    for handler in ["httpGet", "tcpSocket"].into_iter().filter(|h| handlers.contains(h)) {
        match &value[handler]["port"] {
            Value::String(name) => port_name(errors, &format!("{path}.{handler}.port"), name),
            port => errors.port(format!("{path}.{handler}.port"), port),
        }
    }
    if handlers.contains(&"grpc") {
        errors.port(format!("{path}.grpc.port"), &value["grpc"]["port"]);
    }
    if handlers.contains(&"httpGet") {
        http_get(errors, &format!("{path}.httpGet"), &value["httpGet"]);
    }
}

fn http_get(errors: &mut Errors, path: &str, get: &Value) {
    if text(get, "path").is_empty() {
        errors.required(format!("{path}.path"), "");
    }
    let scheme = get.get("scheme").cloned().unwrap_or_else(|| json!(""));
    errors.one_of(&format!("{path}.scheme"), &scheme, &["HTTP", "HTTPS"]);
    for (i, header) in list(get, "httpHeaders").iter().enumerate() {
        let name = text(header, "name");
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used \
                for validation is '[-A-Za-z0-9]+')";
            errors.invalid(format!("{path}.httpHeaders[{i}].name"), format!("{name:?}"), why);
        }
    }
}
