"""The official Python client against an API server without nodes: what it promises, verb by verb. KUBECONFIG tells where.

Every function whose name begins with `it_` is a test with a namespace of its own; all of them run, failures are told in the end.
"""

import base64
import concurrent.futures
import datetime
import json
import sys
import threading
import time
import traceback

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError, ResourceNotFoundError

PAUSE = "oarlock/pause:0.1.0"


def refused(call, code, reason, *words):
    """The Status of a call that is refused like this."""
    try:
        answer = call()
    except ApiException as error:
        assert error.status == code, f"{code} expected: {error}"
        status = json.loads(error.body)
        assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure"), status
        assert (status["code"], status["reason"]) == (code, reason), status
        for word in words:
            assert word in status["message"], f"{word!r} is not in {status['message']!r}"
        return status
    raise AssertionError(f"not refused ({code} {reason}): {answer}")


def soon(what, seen, patience=20):
    """Waits until `seen` gives something."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = seen()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"in vain: {what}")


def meta(name, **more):
    return client.V1ObjectMeta(name=name, **more)


def config_map(name, labels=None, **data):
    return client.V1ConfigMap(metadata=meta(name, labels=labels), data=data or {"k": "v"})


def pod_spec(**more):
    return client.V1PodSpec(containers=[client.V1Container(name="c", image=PAUSE)], **more)


def pod(name, labels=None, **more):
    return client.V1Pod(metadata=meta(name, labels=labels), spec=pod_spec(**more))


def template(**more):
    return client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels={"app": "web"}), spec=pod_spec(**more))


def deployment(name, replicas=0):
    selector = client.V1LabelSelector(match_labels={"app": "web"})
    spec = client.V1DeploymentSpec(replicas=replicas, selector=selector, template=template())
    return client.V1Deployment(metadata=meta(name), spec=spec)


def names(items):
    return [item.metadata.name for item in items]


def it_reads_and_writes_every_kind(ns):
    """Every kind that is typed: created, read, listed, replaced, patched, deleted; what comes back has what was sent."""
    selector = client.V1LabelSelector(match_labels={"app": "web"})
    resources = client.V1VolumeResourceRequirements(requests={"storage": "1Gi"})
    claim = client.V1PersistentVolumeClaimSpec(access_modes=["ReadWriteOnce"], resources=resources, storage_class_name="none")
    local = client.V1HostPathVolumeSource(path="/tmp/x")
    volume = client.V1PersistentVolumeSpec(
        capacity={"storage": "1Gi"}, access_modes=["ReadWriteOnce"], host_path=local, storage_class_name="none-" + ns)
    now = datetime.datetime.now(datetime.timezone.utc)
    job = client.V1JobSpec(template=template(restart_policy="Never"), suspend=True)
    job.template.metadata = None
    metric = client.V2MetricSpec(type="Resource", resource=client.V2ResourceMetricSource(
        name="cpu", target=client.V2MetricTarget(type="Utilization", average_utilization=50)))
    target = client.V2CrossVersionObjectReference(api_version="apps/v1", kind="Deployment", name="w")
    backend = client.V1IngressBackend(service=client.V1IngressServiceBackend(name="s", port=client.V1ServiceBackendPort(number=80)))
    path = client.V1HTTPIngressPath(path="/", path_type="Prefix", backend=backend)
    rule = client.V1PolicyRule(api_groups=[""], resources=["pods"], verbs=["get"])
    user = client.RbacV1Subject(kind="User", name="u", api_group="rbac.authorization.k8s.io")
    core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
    rbac, net, storage = client.RbacAuthorizationV1Api(), client.NetworkingV1Api(), client.StorageV1Api()
    role = lambda kind: client.V1RoleRef(api_group="rbac.authorization.k8s.io", kind=kind, name="r")
    m = lambda: meta("thing")
    cases = [
        (core, "config_map", client.V1ConfigMap(metadata=m(), data={"a": "b"}, binary_data={"x": base64.b64encode(b"\0").decode()})),
        (core, "secret", client.V1Secret(metadata=m(), string_data={"password": "x"})),
        (core, "service", client.V1Service(metadata=m(), spec=client.V1ServiceSpec(selector={"app": "web"}, ports=[client.V1ServicePort(port=80, target_port="http")]))),
        (core, "endpoints", client.V1Endpoints(metadata=m(), subsets=[client.V1EndpointSubset(addresses=[client.V1EndpointAddress(ip="192.0.2.1")], ports=[client.CoreV1EndpointPort(port=80)])])),
        (core, "service_account", client.V1ServiceAccount(metadata=m())),
        (core, "pod", pod("thing")),
        (core, "pod_template", client.V1PodTemplate(metadata=m(), template=template())),
        (core, "replication_controller", client.V1ReplicationController(metadata=m(), spec=client.V1ReplicationControllerSpec(replicas=0, selector={"app": "web"}, template=template()))),
        (core, "limit_range", client.V1LimitRange(metadata=m(), spec=client.V1LimitRangeSpec(limits=[client.V1LimitRangeItem(type="Container", max={"cpu": "2"})]))),
        (core, "resource_quota", client.V1ResourceQuota(metadata=m(), spec=client.V1ResourceQuotaSpec(hard={"count/services": "5"}))),
        (core, "persistent_volume_claim", client.V1PersistentVolumeClaim(metadata=m(), spec=claim)),
        (core, "event", client.CoreV1Event(metadata=m(), involved_object=client.V1ObjectReference(kind="Pod", name="p", namespace=ns), reason="R", message="m", type="Normal", first_timestamp=now, last_timestamp=now, count=1)),
        (apps, "deployment", deployment("thing")),
        (apps, "replica_set", client.V1ReplicaSet(metadata=m(), spec=client.V1ReplicaSetSpec(replicas=0, selector=selector, template=template()))),
        (apps, "stateful_set", client.V1StatefulSet(metadata=m(), spec=client.V1StatefulSetSpec(replicas=0, service_name="s", selector=selector, template=template()))),
        (apps, "daemon_set", client.V1DaemonSet(metadata=m(), spec=client.V1DaemonSetSpec(selector=selector, template=template()))),
        (apps, "controller_revision", client.V1ControllerRevision(metadata=m(), revision=3, data={"spec": {"x": [1, 2]}})),
        (batch, "job", client.V1Job(metadata=m(), spec=job)),
        (batch, "cron_job", client.V1CronJob(metadata=m(), spec=client.V1CronJobSpec(schedule="*/5 * * * *", suspend=True, job_template=client.V1JobTemplateSpec(spec=job)))),
        (client.AutoscalingV1Api(), "horizontal_pod_autoscaler", client.V1HorizontalPodAutoscaler(metadata=m(), spec=client.V1HorizontalPodAutoscalerSpec(max_replicas=3, scale_target_ref=client.V1CrossVersionObjectReference(api_version="apps/v1", kind="Deployment", name="w")))),
        (client.AutoscalingV2Api(), "horizontal_pod_autoscaler", client.V2HorizontalPodAutoscaler(metadata=m(), spec=client.V2HorizontalPodAutoscalerSpec(max_replicas=3, scale_target_ref=target, metrics=[metric]))),
        (client.PolicyV1Api(), "pod_disruption_budget", client.V1PodDisruptionBudget(metadata=m(), spec=client.V1PodDisruptionBudgetSpec(min_available="50%", selector=selector))),
        (net, "network_policy", client.V1NetworkPolicy(metadata=m(), spec=client.V1NetworkPolicySpec(pod_selector=client.V1LabelSelector(), ingress=[client.V1NetworkPolicyIngressRule(_from=[client.V1NetworkPolicyPeer(pod_selector=selector)])]))),
        (net, "ingress", client.V1Ingress(metadata=m(), spec=client.V1IngressSpec(rules=[client.V1IngressRule(host="a.example", http=client.V1HTTPIngressRuleValue(paths=[path]))]))),
        (net, "ingress_class", client.V1IngressClass(metadata=meta(ns), spec=client.V1IngressClassSpec(controller="example.com/c"))),
        (rbac, "role", client.V1Role(metadata=m(), rules=[rule])),
        (rbac, "role_binding", client.V1RoleBinding(metadata=m(), role_ref=role("Role"), subjects=[user])),
        (rbac, "cluster_role", client.V1ClusterRole(metadata=meta(ns), rules=[rule])),
        (rbac, "cluster_role_binding", client.V1ClusterRoleBinding(metadata=meta(ns), role_ref=role("ClusterRole"), subjects=[user])),
        (storage, "storage_class", client.V1StorageClass(metadata=meta(ns), provisioner="example.com/p")),
        (core, "persistent_volume", client.V1PersistentVolume(metadata=meta(ns), spec=volume)),
        (client.SchedulingV1Api(), "priority_class", client.V1PriorityClass(metadata=meta(ns), value=7)),
        (client.NodeV1Api(), "runtime_class", client.V1RuntimeClass(metadata=meta(ns), handler="h")),
        (client.CoordinationV1Api(), "lease", client.V1Lease(metadata=m(), spec=client.V1LeaseSpec(holder_identity="me", lease_duration_seconds=15, renew_time=now))),
        (client.DiscoveryV1Api(), "endpoint_slice", client.V1EndpointSlice(metadata=m(), address_type="IPv4", endpoints=[client.V1Endpoint(addresses=["192.0.2.9"])], ports=[client.DiscoveryV1EndpointPort(port=80)])),
        (client.EventsV1Api(), "event", client.EventsV1Event(metadata=meta("other"), regarding=client.V1ObjectReference(kind="Pod", name="p", namespace=ns), reason="R", action="A", note="n", type="Normal", event_time=now, reporting_controller="example.com/c", reporting_instance="i")),
        (core, "node", client.V1Node(metadata=meta(ns))),
    ]
    sanitize = client.ApiClient().sanitize_for_serialization
    for api, kind, body in cases:
        of = lambda verb: getattr(api, f"{verb}_namespaced_{kind}", None) or getattr(api, f"{verb}_{kind}")
        place = [ns] if hasattr(api, f"read_namespaced_{kind}") else []
        name = body.metadata.name
        try:
            made = of("create")(*place, body)
            assert made.metadata.uid and made.metadata.resource_version and made.metadata.creation_timestamp.tzinfo
            holds(sanitize(made), {k: v for k, v in sanitize(body).items() if k != "stringData"}, kind)
            read = of("read")(name, *place)
            assert sanitize(read) == sanitize(made) or kind in CHANGING, (sanitize(read), sanitize(made))
            mine = lambda: of("list")(*place, field_selector=f"metadata.name={name}")
            listed = mine()
            assert name in names(listed.items) and listed.kind.endswith("List") and listed.metadata.resource_version
            labelled = of("patch")(name, *place, {"metadata": {"labels": {"patched": "yes"}}})
            assert labelled.metadata.labels["patched"] == "yes"
            assert names(of("list")(*place, label_selector="patched=yes,patched!=no").items) == [name]
            labelled.metadata.annotations = {"replaced": "yes"}
            if kind in CHANGING:
                labelled.metadata.resource_version = None
            replaced = of("replace")(name, *place, labelled)
            assert replaced.metadata.annotations["replaced"] == "yes"
            assert int(replaced.metadata.resource_version) > int(made.metadata.resource_version)
            if kind not in CHANGING:
                refused(lambda: of("replace")(name, *place, made), 409, "Conflict", "the object has been modified")
            refused(lambda: of("create")(*place, body), 409, "AlreadyExists", "already exists")
            gone = of("delete")(name, *place)
            # Typed where what is gone is answered, else a Status (or what is going).
            gone = gone if isinstance(gone, dict) else sanitize(gone)
            assert gone["kind"] == "Status" and gone["status"] == "Success" or gone["metadata"]["name"] == name, gone
            soon(f"{kind} is gone", lambda: not mine().items)
            refused(lambda: of("read")(name, *place), 404, "NotFound", "not found")
        except ApiException as error:
            raise AssertionError(f"{kind}: {error.status} {error.body}") from error


# What controllers write to, too.
CHANGING = {"pod", "deployment", "replica_set", "stateful_set", "daemon_set", "replication_controller", "job", "cron_job", "service",
            "endpoints", "persistent_volume_claim", "persistent_volume", "resource_quota", "service_account", "pod_disruption_budget",
            "horizontal_pod_autoscaler", "node", "endpoint_slice"}


def holds(made, sent, where):
    """Everything that was sent is in what was made."""
    if isinstance(sent, dict):
        for key, value in sent.items():
            assert key in made, f"{where}.{key} is lost"
            holds(made[key], value, f"{where}.{key}")
    elif isinstance(sent, list):
        assert len(sent) == len(made), where
        for one, other in zip(made, sent):
            holds(one, other, f"{where}[]")
    else:
        same_time = isinstance(sent, str) and sent[:19] == str(made)[:19] and "T" in sent
        assert made == sent or same_time, f"{where}: {sent!r} has become {made!r}"


def it_makes_and_ends_namespaces(ns):
    core = client.CoreV1Api()
    made = core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(generate_name="made-")))
    name = made.metadata.name
    assert name.startswith("made-") and len(name) == 10 and made.status.phase == "Active"
    core.create_namespaced_config_map(name, config_map("inside"))
    assert core.delete_namespace(name)["status"]["phase"] == "Terminating"
    soon("the namespace is gone", lambda: name not in names(core.list_namespace().items))
    status = refused(lambda: core.create_namespaced_config_map(name, config_map("late")), 404, "NotFound", f'namespaces "{name}" not found')
    assert status["details"] == {"name": name, "kind": "namespaces"}, status


def it_pages_through_lists(ns):
    core = client.CoreV1Api()
    for number in range(7):
        core.create_namespaced_config_map(ns, config_map(f"m{number}", labels={"odd": str(number % 2)}))
    seen, token, remaining = [], None, []
    while True:
        page = core.list_namespaced_config_map(ns, limit=3, _continue=token)
        seen += names(page.items)
        remaining.append(page.metadata.remaining_item_count)
        token = page.metadata._continue
        # What comes later is not in pages that follow.
        core.create_namespaced_config_map(ns, config_map(f"n{len(seen)}"))
        if not token:
            break
    assert seen == ["kube-root-ca.crt"] + [f"m{n}" for n in range(7)], seen
    assert remaining == [5, 2, None], remaining
    odd = core.list_namespaced_config_map(ns, limit=2, label_selector="odd in (1)")
    assert names(odd.items) == ["m1", "m3"] and odd.metadata.remaining_item_count is None and odd.metadata._continue
    one = core.list_namespaced_config_map(ns, field_selector="metadata.name=m4")
    assert names(one.items) == ["m4"]
    refused(lambda: core.list_namespaced_config_map(ns, _continue="x"), 400, "BadRequest", "continue key is not valid")
    refused(lambda: core.list_namespaced_config_map(ns, field_selector="data.k=v"), 400, "BadRequest", "field label not supported")
    refused(lambda: core.list_namespaced_config_map(ns, resource_version="0", resource_version_match="Exact"), 422, "Invalid", "is forbidden for resourceVersion")
    old = seen and core.list_namespaced_config_map(ns, resource_version=page.metadata.resource_version, resource_version_match="Exact")
    assert names(old.items) == seen[:1] + [n for n in seen if n != seen[0]], names(old.items)
    refused(lambda: core.list_namespaced_config_map(ns, resource_version="99999999"), 504, "Timeout", "Too large resource version")
    assert "m0" in names(core.list_config_map_for_all_namespaces(resource_version="0").items)


def it_watches_and_resumes(ns):
    core = client.CoreV1Api()
    start = core.list_namespaced_config_map(ns).metadata.resource_version
    events, watcher = [], watch.Watch()

    def follow():
        for event in watcher.stream(core.list_namespaced_config_map, ns, resource_version=start, label_selector="seen=yes",
                                    allow_watch_bookmarks=True, timeout_seconds=3):
            events.append(event)

    thread = threading.Thread(target=follow)
    thread.start()
    core.create_namespaced_config_map(ns, config_map("hidden"))
    made = core.create_namespaced_config_map(ns, config_map("a", labels={"seen": "yes"}))
    core.patch_namespaced_config_map("a", ns, {"data": {"k": "w"}})
    core.patch_namespaced_config_map("a", ns, {"metadata": {"labels": {"seen": "no"}}})
    core.patch_namespaced_config_map("a", ns, {"metadata": {"labels": {"seen": "yes"}}})
    core.delete_namespaced_config_map("a", ns)
    thread.join(20)
    assert not thread.is_alive(), "the watch ends in time"
    kinds = [event["type"] for event in events]
    assert kinds == ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED", "BOOKMARK"], kinds
    assert isinstance(events[0]["object"], client.V1ConfigMap) and events[0]["object"].metadata.uid == made.metadata.uid
    mark = events[-1]["object"]
    mark = mark if isinstance(mark, dict) else client.ApiClient().sanitize_for_serialization(mark)
    assert int(mark["metadata"]["resourceVersion"]) >= int(events[4]["object"].metadata.resource_version)
    # From the middle: what came after.
    middle = events[1]["object"].metadata.resource_version
    again = watch.Watch().stream(core.list_namespaced_config_map, ns, resource_version=middle, label_selector="seen=yes", timeout_seconds=1)
    assert [event["type"] for event in again] == ["DELETED", "ADDED", "DELETED"]
    # Without a version: what there is, first.
    first = next(watch.Watch().stream(core.list_namespaced_config_map, ns, timeout_seconds=5))
    assert first["type"] == "ADDED"
    # What is forgotten is said, and the client lists anew.
    try:
        events = list(watch.Watch().stream(core.list_namespaced_config_map, ns, resource_version="1", timeout_seconds=1))
        assert "hidden" in names(event["object"] for event in events), events
    except ApiException as error:
        assert error.status == 410, error
    listed = []
    for event in watch.Watch().stream(core.list_namespaced_config_map, ns, send_initial_events=True, allow_watch_bookmarks=True,
                                      resource_version_match="NotOlderThan", timeout_seconds=1):
        listed.append(event)
    ends = [e for e in listed if e["type"] == "BOOKMARK"]
    assert [e["type"] for e in listed][:-len(ends)] == ["ADDED"] * (len(listed) - len(ends)), listed
    raw = ends[0]["raw_object"]
    assert raw["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}, raw


def it_patches_in_every_way(ns):
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    core.create_namespaced_config_map(ns, config_map("p", a="1", b="2"))
    # A list is a JSON patch to this client, an object a strategic one.
    patched = core.patch_namespaced_config_map("p", ns, [{"op": "test", "path": "/data/a", "value": "1"},
                                                         {"op": "replace", "path": "/data/a", "value": "3"},
                                                         {"op": "remove", "path": "/data/b"}])
    assert patched.data == {"a": "3"}, patched.data
    status = refused(lambda: core.patch_namespaced_config_map("p", ns, [{"op": "test", "path": "/data/a", "value": "9"}]), 422, "Invalid")
    merged = core.patch_namespaced_config_map("p", ns, {"data": {"a": None, "c": "4"}}, _content_type="application/merge-patch+json")
    assert merged.data == {"c": "4"}
    apps.create_namespaced_deployment(ns, deployment("p"))
    two = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": PAUSE}]}}}}
    strategic = apps.patch_namespaced_deployment("p", ns, two)
    assert sorted(c.name for c in strategic.spec.template.spec.containers) == ["c", "side"]
    replaced = apps.patch_namespaced_deployment("p", ns, two, _content_type="application/merge-patch+json")
    assert [c.name for c in replaced.spec.template.spec.containers] == ["side"]
    refused(lambda: core.patch_namespaced_config_map("p", ns, {}, _content_type="application/json"), 415, "UnsupportedMediaType")
    stale = {"metadata": {"resourceVersion": "1"}, "data": {"x": "y"}}
    refused(lambda: core.patch_namespaced_config_map("p", ns, stale), 409, "Conflict")
    refused(lambda: core.patch_namespaced_config_map("nothing", ns, {}), 404, "NotFound")
    dry = core.patch_namespaced_config_map("p", ns, {"data": {"dry": "run"}}, dry_run="All")
    assert dry.data["dry"] == "run" and "dry" not in core.read_namespaced_config_map("p", ns).data


def it_applies_and_conflicts(ns):
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    apply = "application/apply-patch+yaml"

    def applied(manager, data, **more):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": data}
        return core.patch_namespaced_config_map("s", ns, body, field_manager=manager, _content_type=apply, **more)

    made = applied("one", {"a": "1", "b": "1"})
    entry = made.metadata.managed_fields[0]
    assert (entry.manager, entry.operation, entry.fields_type) == ("one", "Apply", "FieldsV1"), entry
    assert entry.fields_v1 == {"f:data": {"f:a": {}, "f:b": {}}}, entry.fields_v1
    status = refused(lambda: applied("two", {"a": "2"}), 409, "Conflict", 'Apply failed with 1 conflict: conflict with "one": .data.a')
    assert status["details"]["causes"] == [{"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.a"}]
    forced = applied("two", {"a": "2"}, force=True)
    assert forced.data == {"a": "2", "b": "1"}
    owners = {e.manager: e.fields_v1["f:data"] for e in forced.metadata.managed_fields}
    assert owners == {"one": {"f:b": {}}, "two": {"f:a": {}}}, owners
    assert applied("one", {}).data == {"a": "2"}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}}
    refused(lambda: core.patch_namespaced_config_map("s", ns, body, _content_type=apply), 422, "Invalid", "is required for apply patch")
    # Lists by their keys.
    for manager, name in [("one", "c"), ("two", "side")]:
        spec = client.ApiClient().sanitize_for_serialization(deployment("s"))
        spec.update(apiVersion="apps/v1", kind="Deployment")
        spec["spec"]["template"]["spec"]["containers"] = [{"name": name, "image": PAUSE}]
        both = apps.patch_namespaced_deployment("s", ns, spec, field_manager=manager, _content_type=apply)
    assert [c.name for c in both.spec.template.spec.containers] == ["c", "side"]


def it_has_status_and_scale(ns):
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    apps.create_namespaced_deployment(ns, deployment("d"))
    scale = apps.read_namespaced_deployment_scale("d", ns)
    assert (scale.kind, scale.spec.replicas, scale.status.selector) == ("Scale", 0, "app=web"), scale
    scale.spec.replicas, scale.metadata.resource_version = 2, None
    assert apps.replace_namespaced_deployment_scale("d", ns, scale).spec.replicas == 2
    scale.metadata.resource_version = "1"
    refused(lambda: apps.replace_namespaced_deployment_scale("d", ns, scale), 409, "Conflict")
    assert apps.patch_namespaced_deployment_scale("d", ns, {"spec": {"replicas": 1}}).spec.replicas == 1
    refused(lambda: apps.patch_namespaced_deployment_scale("d", ns, {"spec": {"replicas": -1}}), 422, "Invalid", "spec.replicas")
    soon("one pod is made", lambda: len(core.list_namespaced_pod(ns, label_selector="app=web").items) == 1)
    condition = {"type": "Mine", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"}
    core.create_namespaced_pod(ns, pod("status", node_selector={"nowhere": "true"}))
    patched = core.patch_namespaced_pod_status("status", ns, {"spec": {"nodeName": "n"}, "status": {"conditions": [condition]}})
    assert "Mine" in [c.type for c in patched.status.conditions] and patched.spec.node_name is None
    read = core.read_namespaced_pod_status("status", ns)
    read.status.message, read.metadata.resource_version = "hello", None
    assert core.replace_namespaced_pod_status("status", ns, read).status.message == "hello"
    changed = core.patch_namespaced_pod("status", ns, {"status": {"message": "ignored"}})
    assert changed.status.message == "hello"


def it_binds_and_evicts(ns):
    core = client.CoreV1Api()
    node = core.create_node(client.V1Node(metadata=meta(f"node-{ns}")))
    name = node.metadata.name
    core.create_namespaced_pod(ns, pod("b", node_selector={"nowhere": "true"}))
    body = client.V1Binding(metadata=meta("b"), target=client.V1ObjectReference(kind="Node", name=name))
    bound = core.create_namespaced_pod_binding("b", ns, body, _preload_content=False)
    assert bound.status == 201 and json.loads(bound.data)["status"] == "Success", bound.data
    assert core.read_namespaced_pod("b", ns).spec.node_name == name
    refused(lambda: core.create_namespaced_pod_binding("b", ns, body, _preload_content=True), 409, "Conflict", "pod b is already assigned to node")
    assert names(core.list_pod_for_all_namespaces(field_selector=f"spec.nodeName={name}").items) == ["b"]
    budget = client.V1PodDisruptionBudget(metadata=meta("all"), spec=client.V1PodDisruptionBudgetSpec(
        min_available=1, selector=client.V1LabelSelector(match_labels={"app": "kept"})))
    client.PolicyV1Api().create_namespaced_pod_disruption_budget(ns, budget)
    core.create_namespaced_pod(ns, pod("kept", labels={"app": "kept"}, node_selector={"nowhere": "true"}))
    evict = lambda name: core.create_namespaced_pod_eviction(name, ns, client.V1Eviction(metadata=meta(name)))
    # A pod that does not run is none of a budget's.
    evict("kept")
    core.create_namespaced_pod(ns, pod("other", node_selector={"nowhere": "true"}))
    # What comes is a Status, the type says an Eviction.
    assert evict("other").kind == "Status"
    refused(lambda: core.read_namespaced_pod("other", ns), 404, "NotFound")
    refused(lambda: evict("nothing"), 404, "NotFound")
    core.delete_namespaced_pod("b", ns, grace_period_seconds=0)
    core.delete_node(name)


def it_gives_tokens_and_reviews(ns):
    core = client.CoreV1Api()
    core.create_namespaced_service_account(ns, client.V1ServiceAccount(metadata=meta("robot")))
    spec = client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)
    token = core.create_namespaced_service_account_token("robot", ns, client.AuthenticationV1TokenRequest(spec=spec))
    assert token.status.token.count(".") == 2 and token.status.expiration_timestamp > datetime.datetime.now(datetime.timezone.utc)
    own = client.Configuration.get_default_copy()
    own.cert_file = own.key_file = None
    own.api_key, own.api_key_prefix = {"authorization": token.status.token}, {"authorization": "Bearer"}
    robot = client.ApiClient(own)
    refused(lambda: client.CoreV1Api(robot).list_namespaced_pod(ns), 403, "Forbidden",
            f'pods is forbidden: User "system:serviceaccount:{ns}:robot" cannot list resource "pods" in API group "" in the namespace "{ns}"')
    rules = client.RbacAuthorizationV1Api()
    rules.create_namespaced_role(ns, client.V1Role(metadata=meta("reader"), rules=[client.V1PolicyRule(api_groups=[""], resources=["pods"], verbs=["list"])]))
    subject = client.RbacV1Subject(kind="ServiceAccount", name="robot", namespace=ns)
    ref = client.V1RoleRef(api_group="rbac.authorization.k8s.io", kind="Role", name="reader")
    rules.create_namespaced_role_binding(ns, client.V1RoleBinding(metadata=meta("reader"), role_ref=ref, subjects=[subject]))
    assert client.CoreV1Api(robot).list_namespaced_pod(ns).items == []
    attributes = client.V1ResourceAttributes(namespace=ns, verb="list", resource="pods")
    ask = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
    assert client.AuthorizationV1Api(robot).create_self_subject_access_review(ask).status.allowed
    who = client.AuthenticationV1Api(robot).create_self_subject_review(client.V1SelfSubjectReview())
    assert who.status.user_info.username == f"system:serviceaccount:{ns}:robot"
    review = client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token.status.token))
    reviewed = client.AuthenticationV1Api().create_token_review(review).status
    assert reviewed.authenticated and reviewed.user.username == who.status.user_info.username
    own.api_key = {"authorization": "nonsense"}
    refused(lambda: client.CoreV1Api(client.ApiClient(own)).list_namespaced_pod(ns), 401, "Unauthorized")


def it_deletes_as_told(ns):
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    made = core.create_namespaced_config_map(ns, config_map("d"))
    wrong = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="other"))
    refused(lambda: core.delete_namespaced_config_map("d", ns, body=wrong), 409, "Conflict", "Precondition failed: UID in precondition: other, UID in object meta")
    dry = core.delete_namespaced_config_map("d", ns, dry_run="All")
    assert dry["status"] == "Success" and core.read_namespaced_config_map("d", ns).metadata.uid == made.metadata.uid
    right = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=made.metadata.uid, resource_version=made.metadata.resource_version))
    gone = core.delete_namespaced_config_map("d", ns, body=right)
    assert gone["status"] == "Success" and gone["details"] == {"name": "d", "kind": "configmaps", "uid": made.metadata.uid}, gone
    refused(lambda: core.delete_namespaced_config_map("d", ns), 404, "NotFound")
    # What holds it.
    core.create_namespaced_config_map(ns, client.V1ConfigMap(metadata=meta("held", finalizers=["example.com/hold"])))
    core.delete_namespaced_config_map("held", ns)
    assert core.read_namespaced_config_map("held", ns).metadata.deletion_timestamp
    core.patch_namespaced_config_map("held", ns, {"metadata": {"finalizers": None}})
    refused(lambda: core.read_namespaced_config_map("held", ns), 404, "NotFound")
    # Whom it takes along.
    for policy, stays in [("Background", False), ("Foreground", False), ("Orphan", True)]:
        name = policy.lower()
        apps.create_namespaced_deployment(ns, deployment(name))
        sets = lambda: [s for s in apps.list_namespaced_replica_set(ns).items if s.metadata.name.startswith(name)]
        soon("its ReplicaSet is there", sets)
        apps.delete_namespaced_deployment(name, ns, propagation_policy=policy)
        soon("the Deployment is gone", lambda: name not in names(apps.list_namespaced_deployment(ns).items))
        if stays:
            assert soon("its ReplicaSet is free", lambda: [s for s in sets() if not s.metadata.owner_references])
        else:
            soon("its ReplicaSet is gone", lambda: not sets())
    for number in range(4):
        core.create_namespaced_config_map(ns, config_map(f"many{number}", labels={"many": str(number % 2)}))
    core.delete_collection_namespaced_config_map(ns, label_selector="many=1")
    assert names(core.list_namespaced_config_map(ns, label_selector="many").items) == ["many0", "many2"]
    refused(lambda: core.delete_namespaced_config_map("many0", ns, propagation_policy="Sometimes"), 422, "Invalid", "propagationPolicy")


def it_explains_refusals(ns):
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    bad = deployment("Bad_Name")
    bad.spec.replicas = -1
    status = refused(lambda: apps.create_namespaced_deployment(ns, bad), 422, "Invalid", 'Deployment.apps "Bad_Name" is invalid')
    fields = [cause["field"] for cause in status["details"]["causes"]]
    assert "metadata.name" in fields and "spec.replicas" in fields, fields
    # The types of this client would not let these pass.
    custom = client.CustomObjectsApi()
    create = lambda body, **more: custom.create_namespaced_custom_object_with_http_info("coordination.k8s.io", "v1", ns, "leases", body, **more)
    strict = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x"}, "dta": {}}
    refused(lambda: create(strict, field_validation="Strict"), 400, "BadRequest", 'strict decoding error: unknown field "dta"')
    warned = create(strict, field_validation="Warn")
    headers = warned[2]
    assert headers["Warning"] == '299 - "unknown field \\"dta\\""', headers["Warning"]
    mismatch = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}
    refused(lambda: create(mismatch), 400, "BadRequest", "does not match")
    core.create_namespaced_config_map(ns, config_map("x"))
    wrong = {"metadata": {"name": "x", "namespace": "elsewhere"}}
    refused(lambda: core.create_namespaced_config_map(ns, wrong), 400, "BadRequest", "the namespace of the provided object does not match")
    refused(lambda: core.create_namespaced_config_map(ns, {"metadata": {}}), 422, "Invalid", "name or generateName is required")
    made = core.read_namespaced_config_map("x", ns)
    made.metadata.name = "y"
    refused(lambda: core.replace_namespaced_config_map("x", ns, made), 400, "BadRequest", "the name of the object (y) does not match the name on the URL (x)")
    frozen = core.create_namespaced_config_map(ns, client.V1ConfigMap(metadata=meta("i"), data={"a": "1"}, immutable=True))
    frozen.data["a"] = "2"
    refused(lambda: core.replace_namespaced_config_map("i", ns, frozen), 422, "Invalid", "field is immutable when `immutable` is set")


def it_discovers(ns):
    version = client.VersionApi().get_code()
    assert version.major == "1" and int(version.minor.rstrip("+")) >= 33, version
    assert "v1" in client.CoreApi().get_api_versions().versions
    groups = {group.name: group.preferred_version.group_version for group in client.ApisApi().get_api_versions().groups}
    assert groups["apps"] == "apps/v1" and groups["autoscaling"] == "autoscaling/v2", groups
    assert client.AppsApi().get_api_group().name == "apps"
    resources = {resource.name: resource for resource in client.CoreV1Api().get_api_resources().resources}
    assert resources["pods"].short_names == ["po"] and resources["pods/eviction"].group == "policy"
    found = dynamic.DynamicClient(client.ApiClient())
    maps = found.resources.get(api_version="v1", kind="ConfigMap")
    made = maps.create(body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dyn"}, "data": {"a": "1"}}, namespace=ns)
    assert made.metadata.uid and maps.get(name="dyn", namespace=ns).data.a == "1"
    assert maps.patch(body={"data": {"b": "2"}}, name="dyn", namespace=ns, content_type="application/merge-patch+json").data.b == "2"
    applied = maps.server_side_apply(body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dyn"}, "data": {"c": "3"}},
                                     namespace=ns, field_manager="dyn")
    assert applied.data.c == "3"
    try:
        maps.server_side_apply(body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dyn"}, "data": {"a": "9"}},
                               namespace=ns, field_manager="dyn")
        raise AssertionError("no conflict")
    except ConflictError as error:
        assert error.reason == "Conflict"
    event = next(iter(maps.watch(namespace=ns, field_selector="metadata.name=dyn", timeout=5)))
    assert (event["type"], event["object"].metadata.name) == ("ADDED", "dyn")
    assert [item.metadata.name for item in maps.get(namespace=ns, label_selector="!x").items].count("dyn") == 1
    maps.delete(name="dyn", namespace=ns)
    try:
        maps.get(name="dyn", namespace=ns)
        raise AssertionError("still there")
    except NotFoundError:
        pass
    try:
        found.resources.get(api_version="v1", kind="Nothing")
        raise AssertionError("a kind that is none")
    except ResourceNotFoundError:
        pass
    deployments = found.resources.get(api_version="apps/v1", kind="Deployment")
    deployments.create(body=client.ApiClient().sanitize_for_serialization(deployment("dyn")) | {"apiVersion": "apps/v1", "kind": "Deployment"}, namespace=ns)
    scaled = deployments.scale.patch(body={"spec": {"replicas": 0}}, name="dyn", namespace=ns, content_type="application/merge-patch+json")
    assert scaled.kind == "Scale"


def it_treats_free_objects_by_name(ns):
    """The client for kinds that it has no types of, and of YAML files."""
    custom = client.CustomObjectsApi()
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "free"}, "spec": {"holderIdentity": "a"}}
    made = custom.create_namespaced_custom_object("coordination.k8s.io", "v1", ns, "leases", body)
    made["spec"]["holderIdentity"] = "b"
    assert custom.replace_namespaced_custom_object("coordination.k8s.io", "v1", ns, "leases", "free", made)["spec"] == {"holderIdentity": "b"}
    patched = custom.patch_namespaced_custom_object("coordination.k8s.io", "v1", ns, "leases", "free", {"spec": {"leaseTransitions": 2}})
    assert patched["spec"]["leaseTransitions"] == 2
    assert len(custom.list_namespaced_custom_object("coordination.k8s.io", "v1", ns, "leases")["items"]) == 1
    custom.delete_namespaced_custom_object("coordination.k8s.io", "v1", ns, "leases", "free")
    objects = [client.ApiClient().sanitize_for_serialization(thing) | head for thing, head in [
        (config_map("file"), {"apiVersion": "v1", "kind": "ConfigMap"}), (deployment("file"), {"apiVersion": "apps/v1", "kind": "Deployment"})]]
    utils.create_from_yaml(client.ApiClient(), yaml_objects=objects, namespace=ns)
    try:
        utils.create_from_yaml(client.ApiClient(), yaml_objects=objects, namespace=ns)
        raise AssertionError("made twice")
    except utils.FailToCreateError as error:
        assert [json.loads(e.body)["reason"] for e in error.api_exceptions] == ["AlreadyExists"] * 2


def it_asks_for_certificates(ns):
    api = client.CertificatesV1Api()
    with open(sys.argv[1], "rb") as file:
        request = base64.b64encode(file.read()).decode()
    spec = client.V1CertificateSigningRequestSpec(request=request, signer_name="kubernetes.io/kube-apiserver-client", usages=["client auth"])
    api.create_certificate_signing_request(client.V1CertificateSigningRequest(metadata=meta(ns), spec=spec))
    wanted = api.read_certificate_signing_request(ns)
    wanted.status.conditions = [client.V1CertificateSigningRequestCondition(type="Approved", status="True", reason="Test", message="m")]
    assert api.replace_certificate_signing_request_approval(ns, wanted).status.conditions[0].type == "Approved"
    issued = soon("it is signed", lambda: api.read_certificate_signing_request(ns).status.certificate)
    assert b"BEGIN CERTIFICATE" in base64.b64decode(issued)
    api.delete_certificate_signing_request(ns)


def main():
    config.load_kube_config()
    core, only = client.CoreV1Api(), sys.argv[2:]
    tests = [(name, test) for name, test in globals().items() if name.startswith("it_") and (not only or name in only)]

    def run(name, test):
        namespace = core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(generate_name="t-"))).metadata.name
        soon("the namespace is ready", lambda: "kube-root-ca.crt" in names(core.list_namespaced_config_map(namespace).items)
             and names(core.list_namespaced_service_account(namespace).items))
        start, failure = time.monotonic(), None
        try:
            test(namespace)
        except Exception:
            failure = f"{name}:\n{traceback.format_exc()}"
        print(f"{name} {time.monotonic() - start:.1f}s {'FAILED' if failure else ''}")
        core.delete_namespace(namespace)
        return failure

    # Most of them wait most of the time.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        failures = [failure for failure in pool.map(lambda test: run(*test), tests) if failure]
    if failures:
        sys.exit("\n".join(failures))


main()
