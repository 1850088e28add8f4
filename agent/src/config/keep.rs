//! What a node keeps free for itself: when images are removed and pods evicted. Flags and environment, else a file in the words of
//! kubelet's own, else kubelet's defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;

use crate::eviction::{Hard, Policy as Eviction, Soft};
use crate::kept_images::Policy as Images;

/// kubelet's defaults.
const HARD: &str = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%";
const HIGH: u8 = 85;
const LOW: u8 = 80;
const MIN_AGE: Duration = Duration::from_mins(2);
const TRANSITION: Duration = Duration::from_mins(5);

/// The flags. Each is stronger than the same setting of the file.
#[derive(Debug, Clone, Default, Args)]
pub struct KeepArgs {
    /// A file with settings in the words of a KubeletConfiguration: evictionHard, evictionSoft, evictionSoftGracePeriod,
    /// evictionMaxPodGracePeriod, evictionMinimumReclaim, evictionPressureTransitionPeriod, imageGCHighThresholdPercent,
    /// imageGCLowThresholdPercent, imageMinimumGCAge, staticPodPath.
    /// Flags and environment are stronger.
    #[arg(long, env = "OARLOCK_CONFIG")]
    pub config: Option<PathBuf>,
    /// When pods are evicted: what may not be less than an amount or a share, with commas
    /// [default: memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%].
    /// There is pid.available, too. A share of 0% or 100% is never.
    #[arg(long, env = "OARLOCK_EVICTION_HARD")]
    pub eviction_hard: Option<String>,
    /// When pods are evicted if it stays so, in the same words as of --eviction-hard. Each needs its --eviction-soft-grace-period.
    #[arg(long, env = "OARLOCK_EVICTION_SOFT")]
    pub eviction_soft: Option<String>,
    /// For how long a soft threshold may be crossed: memory.available=1m30s, several with commas.
    #[arg(long, env = "OARLOCK_EVICTION_SOFT_GRACE_PERIOD")]
    pub eviction_soft_grace_period: Option<String>,
    /// How many seconds a pod has at most to end that is evicted by a soft threshold [default: 0, at once].
    #[arg(long, env = "OARLOCK_EVICTION_MAX_POD_GRACE_PERIOD")]
    pub eviction_max_pod_grace_period: Option<u64>,
    /// How much more than the threshold is freed once it is crossed: nodefs.available=500Mi, several with commas.
    #[arg(long, env = "OARLOCK_EVICTION_MINIMUM_RECLAIM")]
    pub eviction_minimum_reclaim: Option<String>,
    /// How long the node's condition stays after it was last under pressure [default: 5m].
    #[arg(long, env = "OARLOCK_EVICTION_PRESSURE_TRANSITION_PERIOD", value_parser = duration)]
    pub eviction_pressure_transition_period: Option<Duration>,
    /// From which use of Docker's disk on unused images are removed, in percent; 100 is never [default: 85].
    #[arg(long, env = "OARLOCK_IMAGE_GC_HIGH_THRESHOLD", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_high_threshold: Option<u8>,
    /// Down to which use they are removed, in percent [default: 80].
    #[arg(long, env = "OARLOCK_IMAGE_GC_LOW_THRESHOLD", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_low_threshold: Option<u8>,
    /// A folder of pods that this node runs by itself: files with a Pod each, in YAML or JSON (staticPodPath).
    #[arg(long, env = "OARLOCK_POD_MANIFEST_PATH")]
    pub pod_manifest_path: Option<PathBuf>,
    /// How long an unused image stays at least [default: 2m].
    #[arg(long, env = "OARLOCK_MINIMUM_IMAGE_TTL_DURATION", value_parser = duration)]
    pub minimum_image_ttl_duration: Option<Duration>,
}

/// The file. A field that is not known here is refused: nothing is accepted that is not honoured.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: Option<String>,
    kind: Option<String>,
    eviction_hard: Option<BTreeMap<String, String>>,
    eviction_soft: Option<BTreeMap<String, String>>,
    eviction_soft_grace_period: Option<BTreeMap<String, String>>,
    eviction_max_pod_grace_period: Option<u64>,
    eviction_minimum_reclaim: Option<BTreeMap<String, String>>,
    eviction_pressure_transition_period: Option<String>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    image_gc_high_threshold_percent: Option<u8>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    image_gc_low_threshold_percent: Option<u8>,
    #[serde(rename = "imageMinimumGCAge")]
    image_minimum_gc_age: Option<String>,
    static_pod_path: Option<PathBuf>,
}

/// What holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Keep {
    pub(crate) eviction: Eviction,
    pub(crate) images: Images,
    pub(crate) static_pod_path: Option<PathBuf>,
}

impl KeepArgs {
    /// What flags, file and defaults come to.
    ///
    /// # Errors
    /// The file cannot be read or says what this version does not know; a setting makes no sense.
    pub(crate) fn resolve(&self) -> anyhow::Result<Keep> {
        let file = self.config.as_deref().map_or_else(|| Ok(File::default()), read)?;
        let joined = |map: Option<BTreeMap<String, String>>, between: &str| {
            let pairs = map?.into_iter().map(|(signal, value)| format!("{signal}{between}{value}"));
            Some(pairs.collect::<Vec<_>>().join(","))
        };
        let hard = self.eviction_hard.clone().or_else(|| joined(file.eviction_hard, "<"));
        let reclaim =
            self.eviction_minimum_reclaim.clone().or_else(|| joined(file.eviction_minimum_reclaim, "="));
        let time = |flag: Option<Duration>, name: &str, of_file: Option<String>, default: Duration| {
            let of_file = of_file.map(|text| duration(&text).map_err(|e| anyhow::anyhow!("{name}: {e}")));
            anyhow::Ok(flag.or(of_file.transpose()?).unwrap_or(default))
        };
        let hard = Hard::parse(hard.as_deref().unwrap_or(HARD), reclaim.as_deref().unwrap_or_default())
            .map_err(anyhow::Error::msg)?;
        let soft = self.eviction_soft.clone().or_else(|| joined(file.eviction_soft, "<"));
        let patience = self.eviction_soft_grace_period.clone();
        let patience = patience.or_else(|| joined(file.eviction_soft_grace_period, "="));
        let soft = Soft::parse(
            soft.as_deref().unwrap_or_default(),
            &patiences(patience.as_deref().unwrap_or_default())?,
            reclaim.as_deref().unwrap_or_default(),
            self.eviction_max_pod_grace_period.or(file.eviction_max_pod_grace_period).unwrap_or(0),
        )
        .map_err(anyhow::Error::msg)?;
        let eviction = Eviction {
            hard,
            soft,
            transition: time(
                self.eviction_pressure_transition_period,
                "evictionPressureTransitionPeriod",
                file.eviction_pressure_transition_period,
                TRANSITION,
            )?,
        };
        let images = Images {
            high: self.image_gc_high_threshold.or(file.image_gc_high_threshold_percent).unwrap_or(HIGH),
            low: self.image_gc_low_threshold.or(file.image_gc_low_threshold_percent).unwrap_or(LOW),
            min_age: time(
                self.minimum_image_ttl_duration,
                "imageMinimumGCAge",
                file.image_minimum_gc_age,
                MIN_AGE,
            )?,
        };
        anyhow::ensure!(
            images.high <= 100 && (images.low < images.high || images.high == 0),
            "imageGCLowThresholdPercent ({}) has to be less than imageGCHighThresholdPercent ({}), which is at most 100",
            images.low,
            images.high
        );
        let static_pod_path = self.pod_manifest_path.clone().or(file.static_pod_path);
        Ok(Keep { eviction, images, static_pod_path })
    }
}

/// `memory.available=1m30s,...`
fn patiences(text: &str) -> anyhow::Result<Vec<(String, Duration)>> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let one = |word: &str| {
        let (name, time) = word
            .split_once('=')
            .with_context(|| format!("{word:?} is no grace period: memory.available=1m30s"))?;
        let time = duration(time).map_err(|e| anyhow::anyhow!("evictionSoftGracePeriod: {e}"))?;
        Ok((name.to_owned(), time))
    };
    words.map(one).collect()
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read --config {}", path.display()))?;
    let file: File = serde_yaml::from_str(&text)
        .with_context(|| format!("--config {} is not understood", path.display()))?;
    let fits = |said: &Option<String>, wanted: &str| said.as_deref().is_none_or(|said| said == wanted);
    anyhow::ensure!(
        fits(&file.kind, "KubeletConfiguration") && fits(&file.api_version, "kubelet.config.k8s.io/v1beta1"),
        "--config {} is no kubelet.config.k8s.io/v1beta1 KubeletConfiguration",
        path.display()
    );
    Ok(file)
}

/// `1h30m`, `5m0s`, `500ms`: as Go writes durations.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: 5m, 90s, 1h30m0s, 500ms");
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(end);
        let number: u32 = number.parse().map_err(|_| wrong())?;
        let units = [
            ("ms", Duration::from_millis(1)),
            ("h", Duration::from_hours(1)),
            ("m", Duration::from_mins(1)),
            ("s", Duration::from_secs(1)),
        ];
        let (left, unit) = units
            .iter()
            .find_map(|(name, unit)| Some((after.strip_prefix(name)?, unit)))
            .ok_or_else(wrong)?;
        sum = sum.saturating_add(unit.saturating_mul(number));
        rest = left;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(text: &str) -> anyhow::Result<Keep> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, text).unwrap();
        KeepArgs { config: Some(path), image_gc_low_threshold: Some(70), ..KeepArgs::default() }.resolve()
    }

    #[test]
    fn without_a_word_kubelets_defaults_hold() {
        let keep = KeepArgs::default().resolve().unwrap();
        assert_eq!(keep.images, Images { high: 85, low: 80, min_age: Duration::from_mins(2) });
        assert_eq!(keep.eviction.transition, Duration::from_mins(5));
        assert_eq!(keep.eviction.hard, Hard::parse(HARD, "").unwrap());
        assert_eq!(keep.eviction.soft, Soft::default());
    }

    #[test]
    fn a_file_is_stronger_than_defaults_and_a_flag_than_a_file() {
        let keep = of_file(
            "kind: KubeletConfiguration\nevictionHard: {memory.available: 5%}\nimageGCHighThresholdPercent: 75\n\
             evictionMinimumReclaim: {memory.available: 1Gi}\nevictionPressureTransitionPeriod: 1m30s\n\
             evictionSoft: {memory.available: 9%}\nevictionSoftGracePeriod: {memory.available: 1m30s}\n\
             evictionMaxPodGracePeriod: 20\nstaticPodPath: /etc/kubernetes/manifests\n",
        )
        .unwrap();
        assert_eq!(keep.static_pod_path.as_deref(), Some(Path::new("/etc/kubernetes/manifests")));
        let patience = [("memory.available".to_owned(), Duration::from_secs(90))];
        let soft = Soft::parse("memory.available<9%", &patience, "memory.available=1Gi", 20).unwrap();
        assert_eq!(keep.eviction.soft, soft);
        assert_eq!(keep.images, Images { high: 75, low: 70, min_age: Duration::from_mins(2) });
        assert_eq!(keep.eviction.transition, Duration::from_secs(90));
        assert_eq!(keep.eviction.hard, Hard::parse("memory.available<5%", "memory.available=1Gi").unwrap());
    }

    #[test]
    fn what_is_not_understood_is_refused_and_named() {
        for (text, part) in [
            ("maxPods: 5\n", "maxPods"),
            ("kind: KubeProxyConfiguration\n", "is no kubelet.config.k8s.io/v1beta1 KubeletConfiguration"),
            ("evictionHard: {memory.free: 5%}\n", "memory.free"),
            ("evictionSoft: {memory.available: 9%}\n", "grace period must be specified"),
            ("evictionSoftGracePeriod: {memory.available: soon}\n", "evictionSoftGracePeriod: \"soon\""),
            ("imageMinimumGCAge: soon\n", "imageMinimumGCAge: \"soon\" is no duration"),
            ("imageGCHighThresholdPercent: 60\n", "has to be less than"),
        ] {
            let error = format!("{:#}", of_file(text).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1h1m1s1ms").unwrap(), Duration::from_millis(3_661_001));
        for wrong in ["", "5", "m", "5x", "-5m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
