//! The controller that takes the place of the old one: read from a file, or a copy of the old one with another image.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::api::Api;
use super::{Cli, DESIRED, NEXT, SOURCE, annotation, name, replicas, say, source_id};

/// The one ReplicationController of a file.
pub(super) fn read(path: &Path) -> anyhow::Result<Value> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} cannot be used", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Value> {
    use serde::Deserialize as _;
    let documents = serde_yaml::Deserializer::from_str(text).map(Value::deserialize);
    let documents: Vec<Value> = documents.collect::<Result<_, _>>()?;
    let mut objects = documents.into_iter().filter(|object| !object.is_null());
    let (Some(object), None) = (objects.next(), objects.next()) else {
        bail!("it has to hold exactly one object");
    };
    if object["kind"] != "ReplicationController" || object["apiVersion"] != "v1" {
        bail!("it does not specify a valid ReplicationController (v1)");
    }
    if name(&object).is_empty() {
        bail!("its ReplicationController has no metadata.name");
    }
    Ok(object)
}

/// The controller of a file, with the old one's number of replicas where it says none.
pub(super) fn of_file(path: &Path, namespace: &str, old: &Value) -> anyhow::Result<Value> {
    let mut wanted = read(path)?;
    let own = wanted["metadata"]["namespace"].as_str().unwrap_or(namespace);
    if own != namespace {
        bail!("the namespace from the provided object {own:?} does not match the namespace {namespace:?}");
    }
    if wanted["spec"]["replicas"].is_null() {
        wanted["spec"]["replicas"] = replicas(old).into();
    }
    Ok(wanted)
}

/// A controller under another name, with all that is its own taken off.
pub(super) fn copy(controller: &Value, name: &str) -> Value {
    let metadata = &controller["metadata"];
    json!({
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {"name": name, "labels": metadata["labels"], "annotations": metadata["annotations"]},
        "spec": controller["spec"],
    })
}

fn hash(value: &Value) -> String {
    Sha256::digest(value.to_string()).iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// A copy of the old controller whose container has the image, or the one that an update to it has already begun with.
pub(super) async fn of_image(cli: &Cli, old: &Value, image: &str, api: &Api) -> anyhow::Result<Value> {
    let known = cli.new.as_deref().or_else(|| annotation(old, NEXT));
    if let Some(known) = known
        && let Some(begun) = api.find(known).await?
    {
        let at = container(cli, &begun)?;
        let present =
            begun["spec"]["template"]["spec"]["containers"][at]["image"].as_str().unwrap_or_default();
        if present != image {
            bail!(
                "Found existing in-progress update to image ({present}).\nEither continue in-progress update with \
                 --image={present} or rollback with --rollback"
            );
        }
        say(&format!("Found existing update in progress ({known}), resuming."))?;
        return Ok(begun);
    }
    with_image(cli, old, image)
}

fn with_image(cli: &Cli, old: &Value, image: &str) -> anyhow::Result<Value> {
    let key = &cli.deployment_label_key;
    let mut new = copy(old, "");
    for own in [SOURCE, DESIRED, super::ORIGINAL, NEXT] {
        if let Some(annotations) = new["metadata"]["annotations"].as_object_mut() {
            annotations.remove(own);
        }
    }
    let at = container(cli, old)?;
    let container = &mut new["spec"]["template"]["spec"]["containers"][at];
    container["image"] = image.into();
    if let Some(policy) = &cli.image_pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    let hash = hash(&new["spec"]);
    new["spec"]["selector"][key] = hash.as_str().into();
    new["spec"]["template"]["metadata"]["labels"][key] = hash.as_str().into();
    new["metadata"]["name"] = cli.new.clone().unwrap_or_else(|| format!("{}-{hash}", name(old))).into();
    Ok(new)
}

/// The place of the container that gets the image.
fn container(cli: &Cli, controller: &Value) -> anyhow::Result<usize> {
    let containers =
        controller["spec"]["template"]["spec"]["containers"].as_array().map_or(&[][..], Vec::as_slice);
    match &cli.container {
        Some(wanted) => containers.iter().position(|c| c["name"] == wanted.as_str()).with_context(|| {
            format!("container {wanted} not found in replication controller {}", name(controller))
        }),
        None if containers.len() == 1 => Ok(0),
        None => bail!("must specify container to update with --container: {} has several", name(controller)),
    }
}

/// Gives the old controller and its pods a label of their own, and writes down what it is being updated to.
pub(super) async fn tell_apart(cli: &Cli, api: &Api, old: Value, next: &str) -> anyhow::Result<Value> {
    let key = cli.deployment_label_key.as_str();
    let noted = json!({"metadata": {"annotations": {NEXT: next}}});
    let old = if annotation(&old, NEXT) == Some(next) { old } else { api.patch(name(&old), &noted).await? };
    if !old["spec"]["selector"][key].is_null() {
        return Ok(old);
    }
    // An interrupted update may have come as far as the template.
    let begun = old["spec"]["template"]["metadata"]["labels"][key].as_str().map(str::to_owned);
    let label = begun.unwrap_or_else(|| format!("{}-orig", hash(&old["spec"])));
    let before = old["spec"]["selector"].clone();
    // First the template, so that pods made from now on have it; then the pods that are there; then the selector.
    let labels = json!({"labels": {key: label}});
    api.patch(name(&old), &json!({"spec": {"template": {"metadata": labels}}})).await?;
    let pods = async || -> anyhow::Result<Vec<Value>> {
        let mut pods = api.pods(&before).await?;
        pods.retain(|pod| pod["metadata"]["labels"][key] != label.as_str());
        Ok(pods)
    };
    for pod in pods().await? {
        api.patch_pod(name(&pod), &json!({"metadata": labels})).await?;
    }
    let old = api.patch(name(&old), &json!({"spec": {"selector": {key: label}}})).await?;
    // A pod that was made of the old template meanwhile belongs to nobody now.
    for pod in pods().await? {
        if pod["metadata"]["ownerReferences"].is_null() || owned_by(&pod, &old) {
            api.delete_pod(name(&pod)).await?;
        }
    }
    Ok(old)
}

fn owned_by(pod: &Value, controller: &Value) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.into_iter().any(|owner| owner["uid"] == controller["metadata"]["uid"])
}

/// The new controller: made with no replicas, or the one that an interrupted update has made.
pub(super) async fn found_or_made(api: &Api, old: &Value, mut wanted: Value) -> anyhow::Result<Value> {
    let source = source_id(old);
    if let Some(found) = api.find(name(&wanted)).await? {
        if annotation(&found, SOURCE) != Some(&source) || annotation(&found, DESIRED).is_none() {
            bail!(
                "Missing/unexpected annotations for controller {}, expected {SOURCE}: {source}: it was not made by an update of {}",
                name(&found),
                name(old)
            );
        }
        say(&format!("Continuing update with existing controller {}.", name(&found)))?;
        return Ok(found);
    }
    let desired = replicas(&wanted);
    if desired <= 0 {
        bail!("Invalid controller spec for {}; required: > 0 replicas, actual: {desired}", name(&wanted));
    }
    if !wanted["metadata"]["annotations"].is_object() {
        wanted["metadata"]["annotations"] = json!({});
    }
    wanted["metadata"]["annotations"][DESIRED] = desired.to_string().into();
    wanted["metadata"]["annotations"][SOURCE] = source.into();
    wanted["spec"]["replicas"] = 0.into();
    let made = api.create(&wanted).await?;
    say(&format!("Created {}", name(&made)))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn old() -> Value {
        json!({"metadata": {"name": "web", "uid": "1", "annotations": {NEXT: "x", "mine": "y"}}, "spec": {
            "replicas": 3, "selector": {"app": "web"},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "i:1"}]}},
        }})
    }

    #[test]
    fn a_file_holds_one_replication_controller() {
        let one = "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: v2}\nspec: {}\n";
        assert_eq!(name(&parse(one).unwrap()), "v2");
        assert!(parse(&format!("{one}---\n{one}")).is_err());
        assert!(parse("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: v2}").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn a_copy_with_another_image_is_told_apart_by_a_label() {
        let cli = Cli::parse_from(["x", "web", "--image=i:2"]);
        let new = with_image(&cli, &old(), "i:2").unwrap();
        let label = new["spec"]["selector"]["deployment"].as_str().unwrap();
        assert_eq!(name(&new), format!("web-{label}"));
        assert_eq!(new["spec"]["template"]["metadata"]["labels"]["deployment"], label);
        assert_eq!(new["spec"]["template"]["spec"]["containers"][0]["image"], "i:2");
        assert_eq!(new["metadata"]["annotations"], json!({"mine": "y"}));
        super::super::check_pair(&old(), &new).unwrap_err();
        assert_eq!(with_image(&cli, &old(), "i:2").unwrap(), new, "the same every time");
    }

    #[test]
    fn which_container_is_meant_has_to_be_clear() {
        let mut two = old();
        two["spec"]["template"]["spec"]["containers"] = json!([{"name": "a"}, {"name": "b"}]);
        assert!(container(&Cli::parse_from(["x", "web", "--image=i:2"]), &two).is_err());
        let cli = Cli::parse_from(["x", "web", "--image=i:2", "--container=b"]);
        assert_eq!(container(&cli, &two).unwrap(), 1);
        assert!(container(&cli, &old()).is_err());
    }
}
