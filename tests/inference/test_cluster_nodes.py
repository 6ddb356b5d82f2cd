"""Two Ray nodes in two network namespaces of one machine: other addresses, and files that only one of them has."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

IPS = ("10.234.57.1", "10.234.57.2")
RAY = Path(sys.executable).with_name("ray")
DRIVER = textwrap.dedent("""
    import hashlib, json, os, pathlib, signal, sys, time
    import ray
    from tuban.data.pair import PairSettings, open_pair
    from tuban.errors import TubanError
    from tuban.inference.change import predict_change
    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle

    task = json.loads(sys.argv[1])
    pair = open_pair(task["before"], task["after"], settings=PairSettings.model_validate(task["pair"]))

    class Meeting:
        # The nodes begin together, or the first would be done before the second has started. Where it is asked for,
        # the worker on the second then ends its node and itself.
        def __init__(self):
            self.height, self.width, self.crs, self.transform = pair.height, pair.width, pair.crs, pair.transform
            self.pair, self.folder, self.kill = pair, pathlib.Path(task["out"] + ".met"), task["kill"]

        def read(self, window, names):
            if window.height > 40 and "cluster" in task["settings"]:
                self.meet(ray.util.get_node_ip_address())
            return self.pair.read(window, names)

        def meet(self, address):
            if (self.folder / address).exists():
                return
            (self.folder / address).touch()
            until = time.monotonic() + 60
            while len(list(self.folder.iterdir())) < 2 and time.monotonic() < until:
                time.sleep(0.05)
            if self.kill and address == "10.234.57.2":
                for process in (os.getppid(), os.getpid()):  # Ray's daemon of that node, then the worker
                    os.kill(process, signal.SIGKILL)

    source = pair
    if task["meet"]:
        source = Meeting()
        source.folder.mkdir(parents=True)
    try:
        made = predict_change(
            source, Bundle.load(task["bundle"]), task["out"], settings=InferenceSettings(**task["settings"])
        )
    except TubanError as error:
        print(json.dumps({"error": type(error).__name__, "said": str(error)}))
    else:
        names = ("change", "probability", "landcover_before", "landcover_after")
        digests = {name: hashlib.sha256(getattr(made, name).read_bytes()).hexdigest() for name in names}
        print(json.dumps({"hashes": digests, "history": made.history, "notes": made.notes}))
""")


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Nodes:
    """Two namespaces with an Ethernet between them, and Ray in both."""

    def __init__(self, folder, token, plain) -> None:
        self.spaces = [f"tuban-{os.getpid()}-{place}" for place in "ab"]
        self.folder, self.plain = folder, plain
        keep = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.env = keep | {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": str(folder),
        }  # fmt: skip

    def lay(self):
        links = [f"tb{os.getpid() % 100000}{place}" for place in "ab"]
        for space in self.spaces:
            ip("netns", "add", space)
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for space, link, address in zip(self.spaces, links, IPS, strict=True):
            ip("link", "set", link, "netns", space)
            ip("-n", space, "address", "add", f"{address}/24", "dev", link)
            ip("-n", space, "link", "set", link, "up")
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "route", "add", "default", "dev", link)

    def start(self, place, hidden=()):
        """`ip netns exec` gives a mount namespace too: what is covered there is not there on that node."""
        where = ["--head", "--port=6379", "--include-dashboard=false"] if place == 0 else [f"--address={IPS[0]}:6379"]
        command = [
            str(RAY), "start", *where, f"--node-ip-address={IPS[place]}", "--num-cpus=1", "--num-gpus=0",
            "--object-store-memory=100000000", "--disable-usage-stats", f"--temp-dir={self.folder}/{place}",
        ]  # fmt: skip
        covers = "".join(f"mount -t tmpfs none '{path}' && " for path in hidden)
        self.run(place, ["sh", "-c", covers + " ".join(command)])

    def run(self, place, command):
        done = subprocess.run(
            ["ip", "netns", "exec", self.spaces[place], *command],
            env=self.env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def drive(self, **task):
        told = json.dumps({**task, "pair": self.plain})
        return json.loads(self.run(0, [sys.executable, "-c", DRIVER, told]).splitlines()[-1])

    def end(self):
        """Only what runs in these namespaces; `ray stop` would end every Ray of the machine."""
        for space in self.spaces:
            done = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
            for pid in done.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)
        # What `ray start` leaves for `--address=auto`, wherever its other files stand.
        current = Path("/tmp/ray/ray_current_cluster")  # noqa: S108 (Ray's own name)
        if current.is_file() and current.read_text(encoding="utf-8").startswith(IPS[0]):
            current.unlink()


@pytest.fixture(scope="module")
def inputs(stub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for place in ("everywhere", "here"):
        stub.write_pair(folder / place, stub.random_pair(200, 300))
    return folder


@pytest.fixture(scope="module")
def nodes(stub, inputs, bundle):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    # Ray's sockets need a short path, which pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="tb-", ignore_cleanup_errors=True) as folder:
        made = Nodes(folder, secrets.token_hex(32), stub.plain)
        try:
            try:
                made.lay()
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
            made.start(0)
            # The second node has neither the bundle nor the scenes of the folder `here`.
            made.start(1, hidden=[bundle.path, inputs / "here"])
            yield made
        finally:
            made.end()


def task(inputs, bundle, out, place="everywhere", meet=False, kill=False, **settings):
    return {
        "before": str(inputs / place / "before.tif"), "after": str(inputs / place / "after.tif"),
        "bundle": str(bundle.path), "out": str(out), "meet": meet, "kill": kill,
        "settings": {"threads": 1, "tile": 72, **settings},
    }  # fmt: skip


CLUSTER = {"cluster": f"{IPS[0]}:6379"}


@pytest.fixture(scope="module")
def alone(nodes, inputs, bundle, tmp_path_factory):
    return nodes.drive(**task(inputs, bundle, tmp_path_factory.mktemp("alone")))


def test_two_nodes_give_the_hash_of_one_process_and_the_bundle_travels(nodes, inputs, bundle, alone, tmp_path):
    made = nodes.drive(**task(inputs, bundle, tmp_path / "two", meet=True, **CLUSTER))
    assert made["hashes"] == alone["hashes"]
    assert all(address in made["history"][-1] for address in IPS)
    assert made["notes"] == []


def test_a_node_that_lacks_the_inputs_is_named(nodes, inputs, bundle, tmp_path):
    made = nodes.drive(**task(inputs, bundle, tmp_path / "two", place="here", meet=True, **CLUSTER))
    assert made["error"] == "ReadError"
    assert str(inputs / "here") in made["said"]
    assert IPS[1] in made["said"]
    assert "same path or URL" in made["said"]


def test_a_lost_node_costs_its_own_tasks_alone(nodes, inputs, bundle, alone, tmp_path):
    made = nodes.drive(**task(inputs, bundle, tmp_path / "two", meet=True, kill=True, **CLUSTER))
    assert made["hashes"] == alone["hashes"]
    assert "1 workers lost" in made["history"][-1]
