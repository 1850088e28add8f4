//! `kubectl rolling-update`: replaces a ReplicationController by another one pod at a time, as kubectl up to 1.17 did. All that is
//! known of an update is in annotations of the two controllers, so that it can be gone on with or taken back by anybody.
//!
//! In: a command line, a kubeconfig. Out: two controllers scaled in turns, progress as text.

mod api;
mod next;
mod steps;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use serde_json::{Value, json};

use api::Api;
use steps::Moment;

/// Who is replaced: `NAME:UID`, on the new controller.
const SOURCE: &str = "kubectl.kubernetes.io/update-source-id";
/// How many replicas the new controller is to have in the end.
const DESIRED: &str = "kubectl.kubernetes.io/desired-replicas";
/// How many the old one had in the beginning.
const ORIGINAL: &str = "kubectl.kubernetes.io/original-replicas";
/// The name of the new controller, on the old one, where it was made by `--image`.
const NEXT: &str = "kubectl.kubernetes.io/next-controller-id";

/// Perform a rolling update of a ReplicationController: replace it by another, one pod at a time.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-rolling_update",
    bin_name = "kubectl rolling-update",
    version,
    max_term_width = 110
)]
pub struct Cli {
    /// The controller to replace.
    old: String,
    /// The name of the new one, with --image or --rollback.
    new: Option<String>,
    /// The file with the new controller, JSON or YAML; - is the standard input.
    #[arg(long, short = 'f', alias = "file")]
    filename: Option<PathBuf>,
    /// The image of the new controller, whose copy of the old one gets its name in the end.
    #[arg(long, conflicts_with = "filename")]
    image: Option<String>,
    /// The container that gets the image, where there are several.
    #[arg(long, requires = "image")]
    container: Option<String>,
    /// The pull policy of the container that gets the image.
    #[arg(long, requires = "image")]
    image_pull_policy: Option<String>,
    /// The label that tells the pods of the two apart, with --image.
    #[arg(long, default_value = "deployment")]
    deployment_label_key: String,
    /// The time to wait between updating pods.
    #[arg(long, default_value = "1m0s", value_parser = duration)]
    update_period: Duration,
    /// The time between two looks at whether the controllers have followed.
    #[arg(long, default_value = "3s", value_parser = duration)]
    poll_interval: Duration,
    /// How long to wait without progress before giving up.
    #[arg(long, default_value = "5m0s", value_parser = duration)]
    timeout: Duration,
    /// Take an update back that has begun and is not completed.
    #[arg(long)]
    rollback: bool,
    /// The namespace [default: that of the context].
    #[arg(long, short)]
    namespace: Option<String>,
    /// The kubeconfig [default: as kubectl finds it].
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: the current one].
    #[arg(long)]
    context: Option<String>,
}

/// A time as kubectl's flags have it: 10s, 1m30s, 500ms.
fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let parsed = text
        .parse::<jiff::SignedDuration>()
        .map_err(|_| format!("{text} is no time such as 10s or 1m30s"))?;
    Duration::try_from(parsed).map_err(|_| format!("{text} is less than nothing"))
}

/// What becomes of the old controller's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// It goes with the old controller.
    Deleted,
    /// The new controller gets it.
    Renamed,
}

/// An update, or its way back.
struct Update<'a> {
    api: &'a Api,
    cli: &'a Cli,
    /// The one that shrinks.
    old: Value,
    /// The one that grows.
    new: Value,
    ends: Ends,
}

/// Does what the command line says.
///
/// # Errors
/// The API server cannot be asked, the controllers cannot replace each other, or nothing moves for too long.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    check(&cli)?;
    let api = Api::open(cli.kubeconfig.as_deref(), cli.context.clone(), cli.namespace.clone()).await?;
    let old = api.get(&cli.old).await?;
    let (update, done) = if cli.rollback {
        (begin_back(&api, &cli, old).await?, "rolled back")
    } else {
        (begin(&api, &cli, old).await?, "rolling updated")
    };
    let name = update.replace().await?;
    say(&format!("replicationcontroller/{name} {done}"))
}

fn check(cli: &Cli) -> anyhow::Result<()> {
    let named = cli.new.is_some();
    match (cli.rollback, &cli.filename, &cli.image) {
        (false, None, None) => bail!("Must specify --filename or --image for new controller"),
        (true, _, Some(_)) => bail!("don't specify --image on rollback"),
        (_, Some(_), _) if named => bail!("the new controller's name is in the file: leave NEW out"),
        _ => Ok(()),
    }
}

async fn begin<'a>(api: &'a Api, cli: &'a Cli, old: Value) -> anyhow::Result<Update<'a>> {
    let by_image = cli.image.as_deref();
    let (old, wanted, ends) = match by_image {
        Some(image) => {
            let wanted = next::of_image(cli, &old, image, api).await?;
            let ends = if cli.new.is_some() { Ends::Deleted } else { Ends::Renamed };
            (next::tell_apart(cli, api, old, name(&wanted)).await?, wanted, ends)
        }
        None => {
            let path =
                cli.filename.as_deref().context("Must specify --filename or --image for new controller")?;
            let wanted = next::of_file(path, api.namespace(), &old)?;
            (old, wanted, Ends::Deleted)
        }
    };
    let old = api.get(name(&old)).await?;
    check_pair(&old, &wanted)?;
    let new = next::found_or_made(api, &old, wanted).await?;
    // Whoever takes this update back meanwhile says so on the old controller; what an earlier one has left there is over.
    let mut patch = json!({"metadata": {"annotations": {SOURCE: null}}});
    if annotation(&old, ORIGINAL).is_none() {
        patch["metadata"]["annotations"][ORIGINAL] = replicas(&old).to_string().into();
    }
    let old = api.patch(name(&old), &patch).await?;
    Ok(Update { api, cli, old, new, ends })
}

/// The way back: the two change parts, and the one from before grows to what it had.
async fn begin_back<'a>(api: &'a Api, cli: &'a Cli, before: Value) -> anyhow::Result<Update<'a>> {
    let wanted = match (&cli.new, &cli.filename) {
        (Some(name), _) => name.clone(),
        (None, Some(path)) => name(&next::read(path)?).to_owned(),
        (None, None) => annotation(&before, NEXT)
            .with_context(|| format!("say what {} was being updated to: NEW or --filename", cli.old))?
            .to_owned(),
    };
    let after = api.find(&wanted).await?.with_context(|| format!("Could not find {wanted} to rollback."))?;
    check_pair(&before, &after)?;
    let original = annotation(&before, ORIGINAL)
        .with_context(|| format!("couldn't find original replica count of {:?}", name(&before)))?
        .to_owned();
    say(&format!("Setting {:?} replicas to {original}", name(&before)))?;
    let patch = json!({"metadata": {"annotations": {SOURCE: source_id(&after), DESIRED: original}}});
    let new = api.patch(name(&before), &patch).await?;
    Ok(Update { api, cli, old: after, new, ends: Ends::Deleted })
}

/// Two controllers that would take each other's pods cannot replace each other.
fn check_pair(old: &Value, new: &Value) -> anyhow::Result<()> {
    if name(old) == name(new) {
        bail!("{} cannot have the same name as the existing ReplicationController", name(new));
    }
    let selector = |rc: &Value| match rc["spec"]["selector"].as_object() {
        Some(selector) if !selector.is_empty() => selector.clone(),
        _ => rc["spec"]["template"]["metadata"]["labels"].as_object().cloned().unwrap_or_default(),
    };
    let (of_old, of_new) = (selector(old), selector(new));
    let told_apart = of_old.iter().any(|(key, value)| of_new.get(key).is_some_and(|other| other != value));
    if !told_apart {
        bail!("{} must specify a matching key with non-equal value in Selector for {}", name(new), name(old));
    }
    Ok(())
}

impl Update<'_> {
    /// Scales the two in turns until the one has replaced the other; the name of what is left.
    async fn replace(mut self) -> anyhow::Result<String> {
        let desired: i64 =
            annotation(&self.new, DESIRED).and_then(|text| text.parse().ok()).with_context(|| {
                format!("{} does not say in {DESIRED} how many replicas it is to have", name(&self.new))
            })?;
        let (old, new) = (name(&self.old).to_owned(), name(&self.new).to_owned());
        say(&format!(
            "Scaling up {new} from {} to {desired}, scaling down {old} from {} to 0 (keep {desired} pods available, don't exceed {} pods)",
            replicas(&self.new),
            replicas(&self.old),
            desired + 1,
        ))?;
        let mut moved = Instant::now();
        while !self.moment(desired).is_done() {
            let before = self.moment(desired);
            if let Some(up) = before.up() {
                say(&format!("Scaling {new} up to {up}"))?;
                self.scale(&new, up).await?;
            }
            tokio::time::sleep(self.cli.update_period).await;
            self.look().await?;
            let available = self.available().await?;
            if let Some(down) = self.moment(desired).down(available) {
                say(&format!("Scaling {old} down to {down}"))?;
                self.scale(&old, down).await?;
            }
            self.look().await?;
            if self.moment(desired) != before {
                moved = Instant::now();
            } else if moved.elapsed() > self.cli.timeout {
                bail!("timed out waiting for any update progress to be made");
            } else {
                tokio::time::sleep(self.cli.poll_interval.min(Duration::from_secs(1))).await;
            }
        }
        self.finish(desired).await
    }

    fn moment(&self, desired: i64) -> Moment {
        Moment { desired, old: replicas(&self.old), new: replicas(&self.new) }
    }

    /// Both as they are now. Somebody else may have completed the update or begun to take it back.
    async fn look(&mut self) -> anyhow::Result<()> {
        let (old, new) = (self.api.find(name(&self.old)).await?, self.api.find(name(&self.new)).await?);
        let same = |now: &Option<Value>, then: &Value| {
            now.as_ref().is_some_and(|now| now["metadata"]["uid"] == then["metadata"]["uid"])
        };
        let ours = same(&old, &self.old) && same(&new, &self.new);
        let (Some(old), Some(new), true) = (old, new, ours) else {
            bail!(
                "{} or {} is gone: the update was completed or taken back by somebody else",
                name(&self.old),
                name(&self.new)
            );
        };
        let (forth, back) = (source_id(&old), source_id(&new));
        let taken_back = !self.cli.rollback && annotation(&old, SOURCE) == Some(&back);
        if annotation(&new, SOURCE) != Some(&forth) || taken_back {
            bail!("the update of {} is being taken back, or gone on with, by somebody else", name(&old));
        }
        (self.old, self.new) = (old, new);
        Ok(())
    }

    /// Scales one, and waits until its pods are made or gone.
    async fn scale(&self, which: &str, to: i64) -> anyhow::Result<()> {
        self.api.patch(which, &json!({"spec": {"replicas": to}})).await?;
        self.followed(which).await
    }

    async fn followed(&self, which: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let rc = self.api.get(which).await?;
            let seen = rc["status"]["observedGeneration"].as_i64() >= rc["metadata"]["generation"].as_i64();
            if seen && rc["status"]["replicas"].as_i64().unwrap_or(0) == replicas(&rc) {
                return Ok(());
            }
            if start.elapsed() > self.cli.timeout {
                bail!("timed out waiting for {which:?} to be scaled");
            }
            tokio::time::sleep(self.cli.poll_interval).await;
        }
    }

    /// How many pods of the growing one are ready.
    async fn available(&self) -> anyhow::Result<i64> {
        let uid = &self.new["metadata"]["uid"];
        let pods = self.api.pods(&self.new["spec"]["selector"]).await?;
        let is_available = |pod: &&Value| {
            let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            pod["metadata"]["deletionTimestamp"].is_null()
                && owners.into_iter().any(|owner| owner["uid"] == *uid)
                && conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        Ok(i64::try_from(pods.iter().filter(is_available).count())?)
    }

    async fn finish(self, desired: i64) -> anyhow::Result<String> {
        let clean =
            json!({"metadata": {"annotations": {SOURCE: null, DESIRED: null, ORIGINAL: null, NEXT: null}}});
        let new = self.api.patch(name(&self.new), &clean).await?;
        if desired > 0 {
            self.followed(name(&new)).await?;
        }
        if self.ends == Ends::Deleted {
            say(&format!("Update succeeded. Deleting {}", name(&self.old)))?;
            self.api.delete(&self.old, false).await?;
            return Ok(name(&new).to_owned());
        }
        say(&format!("Update succeeded. Deleting old controller: {}", name(&self.old)))?;
        self.api.delete(&self.old, false).await?;
        say(&format!("Renaming {} to {}", name(&new), name(&self.old)))?;
        self.rename(&new).await
    }

    /// Gives the new controller the old one's name: its pods are left without an owner for a moment, and taken over.
    async fn rename(&self, new: &Value) -> anyhow::Result<String> {
        self.api.delete(new, true).await?;
        for gone in [name(&self.old), name(new)] {
            let start = Instant::now();
            while self.api.find(gone).await?.is_some() {
                if start.elapsed() > self.cli.timeout {
                    bail!("timed out waiting for {gone:?} to be deleted");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        let renamed = next::copy(new, name(&self.old));
        Ok(name(&self.api.create(&renamed).await?).to_owned())
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush().map_err(Into::into)
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}

fn replicas(controller: &Value) -> i64 {
    controller["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn source_id(old: &Value) -> String {
    format!("{}:{}", name(old), old["metadata"]["uid"].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(words.split(' '))
    }

    #[test]
    fn the_command_line_is_that_of_kubectl() {
        Cli::command().debug_assert();
        let cli = parse("x my-rc-v1 -f my-rc-v2.yaml --update-period=10s").unwrap();
        assert_eq!((cli.update_period, cli.timeout), (Duration::from_secs(10), Duration::from_secs(300)));
        assert!(check(&cli).is_ok());
        assert!(check(&parse("x my-rc-v1 -f my-rc-v2.yaml --update-period=10s --rollback").unwrap()).is_ok());
        assert!(check(&parse("x a b --rollback").unwrap()).is_ok());
        for refused in ["x a", "x a --image=i --rollback", "x a b -f f"] {
            assert!(check(&parse(refused).unwrap()).is_err(), "{refused}");
        }
        assert!(parse("x a --image=i -f f").is_err());
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("-1s").is_err() && duration("soon").is_err());
    }

    #[test]
    fn controllers_that_would_share_pods_do_not_replace_each_other() {
        let rc = |name: &str, version: &str| json!({"metadata": {"name": name}, "spec": {"selector": {"v": version}}});
        assert!(check_pair(&rc("a", "1"), &rc("b", "2")).is_ok());
        assert!(check_pair(&rc("a", "1"), &rc("a", "2")).is_err());
        assert!(check_pair(&rc("a", "1"), &rc("b", "1")).is_err());
        let by_labels =
            json!({"metadata": {"name": "b"}, "spec": {"template": {"metadata": {"labels": {"v": "2"}}}}});
        assert!(check_pair(&rc("a", "1"), &by_labels).is_ok());
    }
}
