//! From what metrics propose to how many replicas there will be: windows, policies, bounds. Pure.
//!
//! Source: k8s.io/kubernetes/pkg/controller/podautoscaler/horizontal.go (normalizeDesiredReplicas and with Behaviors).

use jiff::Timestamp;
use serde_json::Value;

use crate::world::Memory;

/// How long a lower recommendation waits, where the autoscaler does not say (`--horizontal-pod-autoscaler-downscale-stabilization`).
const SCALE_DOWN_WINDOW: i64 = 300;

/// What has to be decided about.
pub(super) struct Asked {
    pub(super) current: i64,
    pub(super) proposed: i64,
    pub(super) least: i64,
    pub(super) most: i64,
    pub(super) now: Timestamp,
}

type Said = (&'static str, &'static str);

/// The decision, and what the conditions say of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) replicas: i64,
    /// Where recent recommendations have changed it.
    pub(super) stabilized: Option<Said>,
    /// Whether it was bounded, and by what.
    pub(super) limited: (bool, &'static str, &'static str),
}

const LOWER: Said = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const HIGHER: Said = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: Said = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: Said =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Said = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const FAST_UP: Said =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const FAST_DOWN: Said =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

/// Decides, and remembers the recommendation.
pub(super) fn decide(behavior: &Value, asked: &Asked, memory: &mut Memory) -> Verdict {
    let (stable, said) = stabilize(behavior, asked, memory);
    let (replicas, bound) =
        if behavior.is_null() { bounded(asked, stable) } else { rated(behavior, asked, stable, memory) };
    let (reason, message) = bound;
    Verdict {
        replicas,
        stabilized: (stable != asked.proposed).then_some(said),
        limited: (replicas != stable, reason, message),
    }
}

fn window(behavior: &Value, direction: &str, default: i64) -> i64 {
    behavior[direction]["stabilizationWindowSeconds"].as_i64().unwrap_or(default)
}

fn stabilize(behavior: &Value, asked: &Asked, memory: &mut Memory) -> (i64, Said) {
    let (up, down) = (window(behavior, "scaleUp", 0), window(behavior, "scaleDown", SCALE_DOWN_WINDOW));
    // Without a behavior only going down waits, whatever the direction is now.
    let rises = !behavior.is_null() && asked.proposed >= asked.current;
    let window = if rises { up } else { down };
    let age = |at: &Timestamp| asked.now.as_second() - at.as_second();
    let recent = memory.recommendations.iter().filter(|(at, _)| age(at) < window).map(|(_, r)| *r);
    let stable =
        if rises { recent.fold(asked.proposed, i64::min) } else { recent.fold(asked.proposed, i64::max) };
    let longest = up.max(down);
    memory.recommendations.retain(|(at, _)| age(at) < longest);
    memory.recommendations.push((asked.now, asked.proposed));
    (stable, if rises { LOWER } else { HIGHER })
}

/// Without a behavior: twice as many or four, whichever is more, in one step.
fn bounded(asked: &Asked, wanted: i64) -> (i64, Said) {
    let fast = (2 * asked.current).max(4);
    let (most, why) = if asked.most > fast { (fast, FAST_UP) } else { (asked.most, TOO_MANY) };
    match wanted {
        wanted if wanted < asked.least => (asked.least, TOO_FEW),
        wanted if wanted > most => (most, why),
        wanted => (wanted, WITHIN),
    }
}

fn rated(behavior: &Value, asked: &Asked, wanted: i64, memory: &Memory) -> (i64, Said) {
    let current = asked.current;
    if wanted > current {
        let limit = limit(&behavior["scaleUp"], true, asked, &memory.ups).max(current);
        let (most, why) = if asked.most > limit { (limit, FAST_UP) } else { (asked.most, TOO_MANY) };
        if wanted > most {
            return (most, why);
        }
    } else if wanted < current {
        let limit = limit(&behavior["scaleDown"], false, asked, &memory.downs).min(current);
        let (least, why) = if asked.least < limit { (limit, FAST_DOWN) } else { (asked.least, TOO_FEW) };
        if wanted < least {
            return (least, why);
        }
    }
    (wanted, WITHIN)
}

/// How far the policies of a direction let it go.
fn limit(rules: &Value, up: bool, asked: &Asked, events: &[(Timestamp, i64)]) -> i64 {
    let select = rules["selectPolicy"].as_str().unwrap_or("Max");
    if select == "Disabled" {
        return asked.current;
    }
    let reach = rules["policies"].as_array().into_iter().flatten().map(|policy| {
        let (value, period) =
            (policy["value"].as_i64().unwrap_or(0), policy["periodSeconds"].as_i64().unwrap_or(0));
        let recent = events.iter().filter(|(at, _)| asked.now.as_second() - at.as_second() < period);
        let changed: i64 = recent.map(|(_, by)| by).sum();
        let start = if up { asked.current - changed } else { asked.current + changed };
        match (policy["type"] == "Pods", up) {
            (true, true) => start + value,
            (true, false) => start - value,
            // Rounded up, lest one pod never becomes two.
            (false, true) => (start * (100 + value) + 99).div_euclid(100),
            (false, false) => (start * (100 - value)).max(0) / 100,
        }
    });
    // The policy that changes most, or least.
    let furthest = (select != "Min") == up;
    let found = if furthest { reach.max() } else { reach.min() };
    found.unwrap_or(asked.current)
}
