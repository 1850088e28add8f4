"""Streams into the pod `two` by the official Python client: exec, attach, logs, port-forward, proxy. KUBECONFIG tells where."""

import json

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward, stream

config.load_kube_config()
core, where = client.CoreV1Api(), ("two", "default")


def run(*command, **more):
    return stream(core.connect_get_namespaced_pod_exec, *where, container="tool", command=list(command),
                  stdout=True, stderr=True, stdin=False, tty=False, **more)


# exec
assert run("echo", "hello") == "hello\n"
both = run("sh", "-c", "echo out; echo err >&2; exit 3", _preload_content=False)
both.run_forever(timeout=20)
assert (both.read_stdout(), both.read_stderr(), both.returncode) == ("out\n", "err\n", 3)
fed = stream(core.connect_get_namespaced_pod_exec, *where, container="tool", command=["sh", "-c", "read line; echo got $line"],
             stdout=True, stderr=True, stdin=True, tty=False, _preload_content=False)
fed.write_stdin("this\n")
fed.run_forever(timeout=20)
assert (fed.read_stdout(), fed.returncode) == ("got this\n", 0)
large = run("seq", "200000")
assert large.splitlines()[-1] == "200000" and len(large.splitlines()) == 200000, len(large)
try:
    stream(core.connect_get_namespaced_pod_exec, "nothing", "default", command=["true"], stdout=True, stderr=True, stdin=False, tty=False)
    raise AssertionError("a pod that is not there")
except ApiException as error:
    assert "404" in str(error), error

# attach
core.create_namespaced_pod("default", {"metadata": {"name": "says"}, "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
    "containers": [{"name": "c", "image": "oarlock/toolbox:0.1.0", "stdin": True, "command": ["sh", "-c", "read line; echo said $line"]}]}})
for event in watch.Watch().stream(core.list_namespaced_pod, "default", field_selector="metadata.name=says", timeout_seconds=60):
    if event["object"].status.phase == "Running":
        break
attached = stream(core.connect_get_namespaced_pod_attach, "says", "default", container="c", stdin=True, stdout=True, stderr=True,
                  tty=False, _preload_content=False)
attached.write_stdin("so\n")
attached.run_forever(timeout=20)
assert attached.read_stdout() == "said so\n"
for event in watch.Watch().stream(core.list_namespaced_pod, "default", field_selector="metadata.name=says", timeout_seconds=60):
    if event["object"].status.phase == "Succeeded":
        break
assert core.read_namespaced_pod_log("says", "default") == "said so\n"
assert list(watch.Watch().stream(core.read_namespaced_pod_log, "says", "default")) == ["said so"]
assert core.read_namespaced_pod_log("says", "default", limit_bytes=4) == "said"
core.delete_namespaced_pod("says", "default")

# port-forward
request = b"GET /healthz HTTP/1.1\r\nHost: two\r\nConnection: close\r\n\r\n"
forward = portforward(core.connect_get_namespaced_pod_portforward, *where, ports="80,81")
socket = forward.socket(80)
socket.settimeout(20)
socket.sendall(request)
answer = b""
while b"\r\n\r\n" not in answer:
    piece = socket.recv(4096)
    assert piece, answer
    answer += piece
assert answer.startswith(b"HTTP/1.1 200"), answer
refused = forward.socket(81)
refused.settimeout(20)
assert refused.recv(10) == b""
assert "error forwarding port 81 to pod two, uid " in forward.error(81), forward.error(81)
forward.close()

# proxy
assert "pod: two" in core.connect_get_namespaced_pod_proxy_with_path(*where, path="/")
assert "pod: two" in core.connect_get_namespaced_service_proxy_with_path("front", "default", path="/")
print("exec, attach, logs, port-forward and proxy work")
