#!/usr/bin/env python3
"""A Balsa client in Python: create, patch with conflict, retry, observe containers, watch across a leader kill.

    apt-get install python3-grpcio protobuf-compiler protobuf-compiler-grpc
    /usr/bin/python3 examples/python/main.py KUBECONFIG [IMAGE]

Everything goes through gRPC with the kubeconfig's certificate. The stubs are made at run time from proto/,
into a temporary folder.
"""

import base64
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import grpc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


def make_stubs():
    """Runs protoc with the gRPC plugin of the distribution and makes its output importable."""
    folder = tempfile.TemporaryDirectory(prefix="balsa-stubs-")
    out = folder.name
    files = ["objects.proto", "dispatch.proto", "observe.proto", "cluster.proto"]
    plugin = f"--plugin=protoc-gen-grpc_python={shutil.which('grpc_python_plugin')}"
    subprocess.run(["protoc", f"-I{PROTO}", plugin, f"--python_out={out}", f"--grpc_python_out={out}", *files], check=True)
    sys.path.insert(0, out)
    return folder  # Removed when the program ends.


if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
STUBS = make_stubs()
import cluster_pb2  # noqa: E402
import cluster_pb2_grpc  # noqa: E402
import objects_pb2 as pb  # noqa: E402
import objects_pb2_grpc  # noqa: E402
import observe_pb2  # noqa: E402
import observe_pb2_grpc  # noqa: E402

# Nothing was applied and another master may serve; or nobody knows. Both are retried, writes under the
# same request_id.
TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Balsa:
    """The servers of a kubeconfig, and a call that survives the death of any of them."""

    def __init__(self, path):
        config = json.loads(pathlib.Path(path).read_text())  # Balsa writes JSON, which is YAML too.
        decode = base64.b64decode
        user = config["users"][0]["user"]
        self.credentials = grpc.ssl_channel_credentials(
            root_certificates=decode(config["clusters"][0]["cluster"]["certificate-authority-data"]),
            private_key=decode(user["client-key-data"]),
            certificate_chain=decode(user["client-certificate-data"]),
        )
        self.servers = [entry["cluster"]["server"].removeprefix("https://") for entry in config["clusters"]]
        self.channels = {}

    def channel(self, server):
        if server not in self.channels:
            # A dead server is tried again soon, not after gRPC's default of up to two minutes.
            options = [("grpc.max_reconnect_backoff_ms", 500)]
            self.channels[server] = grpc.secure_channel(server, self.credentials, options)
        return self.channels[server]

    def call(self, stub, method, request, timeout=3.0, patience=20.0):
        """Calls the first server that answers; goes on with the next, and again, for `patience` seconds."""
        ends = time.monotonic() + patience
        while True:
            for server in self.servers:
                try:
                    return getattr(stub(self.channel(server)), method)(request, timeout=timeout)
                except grpc.RpcError as error:
                    if error.code() not in TRANSIENT or time.monotonic() > ends:
                        raise
            time.sleep(0.05)

    def objects(self, method, request, **how):
        return self.call(objects_pb2_grpc.ObjectsStub, method, request, **how)

    def leader(self):
        """The leader's name and address."""
        while True:
            status = self.call(cluster_pb2_grpc.ClusterStub, "Status", cluster_pb2.StatusRequest())
            for member in status.members:
                if member.leader:
                    return member.name, member.api_addr
            time.sleep(0.05)


RUN = "example-" + uuid.uuid4().hex[:8]


def key(resource, name=""):
    return pb.Key(resource=resource, namespace="default", name=name)


def config_map(**data):
    return {"metadata": {"labels": {"run": RUN}}, "data": data}


def create(balsa, resource, body, request_id, **how):
    request = pb.WriteRequest(key=key(resource), json=json.dumps(body).encode(), request_id=request_id)
    return balsa.objects("Create", request, **how)


def create_and_patch_with_conflict(balsa):
    body = config_map(colour="red")
    body["metadata"]["name"] = RUN
    first = create(balsa, "configmaps", body, RUN)
    print(f"created configmap/{RUN} at revision {first.revision}")

    def patch(colour, revision):
        change = {"metadata": {"resourceVersion": str(revision)}, "data": {"colour": colour}}
        request = pb.PatchRequest(key=key("configmaps", RUN), patch=json.dumps(change).encode(), request_id=f"{RUN}-{colour}")
        return balsa.objects("Patch", request)

    second = patch("green", first.revision)
    try:
        patch("blue", first.revision)
        sys.exit("a patch of an old revision was accepted")
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.ABORTED:
            raise
        print(f"patch of revision {first.revision} refused: {error.details()}")
    # The way out of a conflict: read what is there, decide again.
    present = balsa.objects("Get", pb.GetRequest(key=key("configmaps", RUN)))
    assert present.revision == second.revision
    third = patch("blue", present.revision)
    assert json.loads(third.json)["data"]["colour"] == "blue"
    print(f"patched at revision {third.revision} after reading again")


def retry_of_an_unknown_outcome(balsa):
    """A name is drawn by the server, so that applying twice would show: as a second object."""
    body = config_map(kind="retried")
    body["metadata"]["generateName"] = f"{RUN}-drawn-"
    try:
        create(balsa, "configmaps", body, f"{RUN}-retry", timeout=0.001, patience=0)
        print("the first attempt was answered even within a millisecond")
    except grpc.RpcError as error:
        print(f"the outcome of the first attempt is unknown: {error.code().name}")
    first = create(balsa, "configmaps", body, f"{RUN}-retry")
    again = create(balsa, "configmaps", body, f"{RUN}-retry")
    assert json.loads(first.json)["metadata"]["uid"] == json.loads(again.json)["metadata"]["uid"]
    listed = balsa.objects("List", pb.ListRequest(key=key("configmaps"), label_selector=f"run={RUN}"))
    drawn = [json.loads(item.json)["metadata"]["name"] for item in listed.items if b"drawn-" in item.json]
    assert len(drawn) == 1, drawn
    print(f"applied once: {drawn[0]}")


def observe_containers(balsa, image):
    pod = {
        "metadata": {"name": RUN, "labels": {"run": RUN}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": image, "command": ["sh", "-c", "sleep 1; exit 3"]}],
        },
    }
    create(balsa, "pods", pod, RUN)
    request = observe_pb2.ContainersRequest(namespace="default", label_selector=f"run={RUN}")
    ends = time.monotonic() + 60
    while True:
        try:
            for event in balsa.call(observe_pb2_grpc.ObserveStub, "Containers", request, timeout=60):
                for container in event.containers:
                    if tell(container) == "terminated":
                        assert container.terminated.exit_code == 3
                        return
                # A stream that breaks is resumed here, at any master.
                request.after_revision = event.revision
        except grpc.RpcError as error:
            if error.code() not in TRANSIENT or time.monotonic() > ends:
                raise
            print("the stream of container status broke; resuming")


def tell(container):
    state = container.WhichOneof("state")
    detail = {
        "waiting": container.waiting.reason,
        "running": "",
        "terminated": f"with exit code {container.terminated.exit_code}",
    }[state]
    print(f"container {container.pod}/{container.name} on {container.node or 'no node yet'}: {state} {detail}".rstrip())
    return state


class Watcher(threading.Thread):
    """Watches this run's ConfigMaps; begins at `server` and resumes by revision at any other."""

    def __init__(self, balsa, server, after):
        super().__init__(daemon=True)
        self.balsa, self.servers, self.after = balsa, [server, *balsa.servers], after
        self.seen, self.resumed, self.error = [], 0, None
        self.start()

    def run(self):
        try:
            while True:
                for server in self.servers:
                    self.follow(server)
                    time.sleep(0.05)
        except grpc.RpcError as error:
            self.error = error

    def follow(self, server):
        request = pb.WatchRequest(key=key("configmaps"), label_selector=f"run={RUN}", after_revision=self.after)
        heard = False
        try:
            for event in objects_pb2_grpc.ObjectsStub(self.balsa.channel(server)).Watch(request):
                # The first message says from where: now the watch has really been resumed.
                self.resumed += not heard and bool(self.seen)
                heard = True
                self.after = event.object.revision
                if event.type == pb.WatchEvent.ADDED:
                    self.seen.append(json.loads(event.object.json)["metadata"]["name"])
        except grpc.RpcError as error:
            # OUT_OF_RANGE would mean: list, and watch from there.
            if error.code() not in (*TRANSIENT, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN):
                raise


def watch_across_a_leader_kill(balsa):
    name, address = balsa.leader()
    start = balsa.objects("List", pb.ListRequest(key=key("configmaps"), label_selector=f"run={RUN}")).revision
    watcher = Watcher(balsa, address, start)
    written, asked, ends = [], False, time.monotonic() + 60
    left = 50  # writes after the watch has moved
    while left and time.monotonic() < ends and not watcher.error:
        if not asked and len(watcher.seen) >= 20:
            print(f"writing, and watching at the leader; now kill it: balsa dev kill {name}", flush=True)
            asked = True
        body = config_map(n=str(len(written)))
        body["metadata"]["name"] = f"{RUN}-{len(written):05}"
        create(balsa, "configmaps", body, body["metadata"]["name"])
        written.append(body["metadata"]["name"])
        left -= watcher.resumed > 0
        time.sleep(0.005)
    while len(watcher.seen) < len(written) and time.monotonic() < ends and not watcher.error:
        time.sleep(0.01)
    if watcher.error:
        raise watcher.error
    assert watcher.resumed, "nobody killed the leader"
    assert watcher.seen == written, "the watch differs from what was written"
    print(f"{len(written)} writes, each seen once and in order; the watch was resumed {watcher.resumed} time(s)")


def main():
    balsa = Balsa(sys.argv[1])
    create_and_patch_with_conflict(balsa)
    retry_of_an_unknown_outcome(balsa)
    observe_containers(balsa, sys.argv[2] if len(sys.argv) == 3 else "registry.local/busybox:1")
    watch_across_a_leader_kill(balsa)
    print("done")


main()
