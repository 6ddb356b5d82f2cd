"""Parts made on Ray are those of one machine, whatever dies on the way."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tuban.data.pair import PairSettings, open_pair
from tuban.errors import MissingExtraError, ModelError, ReadError
from tuban.inference.change import predict_change
from tuban.inference.cluster import ClusterError, fitting
from tuban.inference.connection import connected
from tuban.inference.settings import InferenceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("change", "probability", "landcover_before", "landcover_after")
SETTINGS = InferenceSettings(threads=1, tile=72)
ON_RAY = SETTINGS.model_copy(update={"workers": 2})


@pytest.fixture(scope="module")
def ray():
    """One Ray for all tests of this file: each start takes seconds."""
    module = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with connected(ON_RAY):
        # Classes of this file are not installed on the workers: they travel by value.
        module.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield module
    with warnings.catch_warnings():
        # Ray ends its processes without waiting for them, and Python says so when it forgets them.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def pair(stub, tmp_path_factory):
    """Two files; the real `Pair`, pickled and opened again by every worker."""
    paths = stub.write_pair(tmp_path_factory.mktemp("pair"), stub.random_pair(200, 300))
    with open_pair(**paths, settings=PairSettings.model_validate(stub.plain)) as opened:
        yield opened


class Watched:
    """A pair that calls back before every read, in the worker too."""

    def __init__(self, pair, folder, act) -> None:
        self.pair, self.folder, self.act = pair, Path(folder), act
        self.height, self.width, self.crs, self.transform = pair.height, pair.width, pair.crs, pair.transform

    def read(self, window, names):
        self.act(self, window)
        return self.pair.read(window, names)

    def windows(self):
        """Windows read by all workers, from the files that `record` leaves."""
        return Counter(path.name.split("@")[0] for path in self.folder.iterdir() if "@" in path.name)


def record(watched, window):
    name = f"{window.row_off}-{window.col_off}-{window.height}-{window.width}"
    (watched.folder / f"{name}@{os.getpid()}-{time.monotonic_ns()}").touch()


def die_once(watched, window):
    """SIGKILL in the middle of the first task that reads row 100."""
    record(watched, window)
    if window.row_off > 100 and window.height > 40 and not (watched.folder / "killed").exists():
        (watched.folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def die_always(watched, window):
    if window.row_off > 100 and window.height > 40:
        os.kill(os.getpid(), signal.SIGKILL)


def damaged(watched, window):
    """A row that no block, strip or halo can be read over; small windows look at the background."""
    if window.row_off <= 150 < window.row_off + window.height and window.height > 40:
        raise ReadError("after.tif: a block is damaged; copy it again")


def hashes(rasters):
    return {name: hashlib.sha256(getattr(rasters, name).read_bytes()).hexdigest() for name in NAMES}


@pytest.fixture(scope="module")
def single(pair, bundle, tmp_path_factory):
    return predict_change(pair, bundle, tmp_path_factory.mktemp("single"), settings=SETTINGS)


def test_the_result_is_that_of_one_process(ray, pair, bundle, single, tmp_path):
    steps = []
    made = predict_change(
        pair, bundle, tmp_path, settings=ON_RAY, progress=lambda done, total: steps.append((done, total))
    )
    assert hashes(made) == hashes(single)
    assert made.details == single.details
    assert made.notes == single.notes
    assert "0 workers lost, 0 tasks given out again" in made.history[-1]
    assert steps[-1] == (60000, 60000)
    assert steps == sorted(steps)


def test_a_worker_killed_in_the_middle_costs_its_own_task_alone(ray, pair, bundle, single, tmp_path, capfd):
    watched = Watched(pair, tmp_path, die_once)
    made = predict_change(watched, bundle, tmp_path / "out", settings=ON_RAY)
    assert (tmp_path / "killed").exists()
    assert hashes(made) == hashes(single)
    assert "1 workers lost" in made.history[-1]
    batches = made.details["windows_run"] + made.details["windows_skipped"]
    # Windows of the network are read once, but for those of the strip that was being made and the one read ahead.
    again = sum(count - 1 for name, count in watched.windows().items() if not name.endswith("-32-32"))
    assert batches == 20
    assert 1 <= again <= 3
    assert capfd.readouterr().out == ""


def test_a_task_that_kills_every_worker_ends_the_run_with_a_remedy(ray, pair, bundle, tmp_path):
    with pytest.raises(ClusterError, match=r"ended 3 Ray workers .*memory.*inference\.tile"):
        predict_change(Watched(pair, tmp_path, die_always), bundle, tmp_path / "out", settings=ON_RAY)
    assert not list((tmp_path / "out").glob("*.tif"))


def test_an_error_of_ours_comes_through_as_itself(ray, pair, bundle, stub, tmp_path):
    with pytest.raises(ReadError, match=r"^after.tif: a block is damaged; copy it again$") as caught:
        predict_change(Watched(pair, tmp_path, damaged), bundle, tmp_path / "out", settings=ON_RAY)
    assert type(caught.value) is ReadError
    broken = stub.make_bundle(tmp_path / "nan", stub.graph(nan_out=True))
    with pytest.raises(ModelError, match="not probabilities") as worse:
        predict_change(pair, broken, tmp_path / "out", settings=ON_RAY)
    assert type(worse.value) is ModelError


def test_what_is_left_out_is_listed_alike(ray, pair, bundle, tmp_path):
    watched = Watched(pair, tmp_path, damaged)
    going = {"keep_going": True}
    alone = predict_change(watched, bundle, tmp_path / "a", settings=SETTINGS.model_copy(update=going))
    made = predict_change(watched, bundle, tmp_path / "b", settings=ON_RAY.model_copy(update=going))
    assert made.damage
    assert made.details == alone.details
    assert hashes(made) == hashes(alone)


class Stop(Exception):  # noqa: N818 (what stops a run is no error)
    """The run is stopped."""


def stop_after(share):
    def progress(done, total):
        if done > share * total:
            raise Stop

    return progress


@pytest.mark.parametrize("first", [SETTINGS, ON_RAY], ids=["begun alone", "begun on Ray"])
def test_a_run_goes_on_elsewhere_than_it_began(ray, pair, bundle, single, tmp_path, first):
    then = ON_RAY if first is SETTINGS else SETTINGS
    with pytest.raises(Stop):
        predict_change(pair, bundle, tmp_path, settings=first, progress=stop_after(0.5))
    made = predict_change(pair, bundle, tmp_path, settings=then)
    assert made.history[0].startswith("an unfinished run was gone on with")
    assert hashes(made) == hashes(single)


def test_no_more_than_two_tasks_wait_at_a_worker(ray, pair, bundle, tmp_path, monkeypatch):
    from tuban.inference import crew

    most = []
    hand_out = crew.Crew._hand_out

    def watch(self, strips):
        hand_out(self, strips)
        most.append(max(len(member.tasks) for member in self._members))

    monkeypatch.setattr(crew.Crew, "_hand_out", watch)
    predict_change(pair, bundle, tmp_path, settings=ON_RAY)
    assert max(most) == 2


def test_a_missing_extra_is_named(pair, bundle, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else found(name, *a))
    with pytest.raises(MissingExtraError, match=r"pip install 'tuban\[ray\]'"):
        predict_change(pair, bundle, tmp_path / "out", settings=ON_RAY)
    assert not list((tmp_path / "out").glob("*"))


def test_a_cluster_that_is_not_there_is_said_at_once():
    """In a process of its own: this one may be connected already."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    code = (
        "from tuban.inference.cluster import ClusterError\n"
        "from tuban.inference.connection import connected\n"
        "from tuban.inference.settings import InferenceSettings\n"
        "try:\n"
        "    with connected(InferenceSettings(cluster='127.0.0.1:1')): pass\n"
        "except ClusterError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("the Ray cluster '127.0.0.1:1' cannot be reached (")
    assert "ray start --head" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [([2], 2, 1), ([2], 1, 2), ([2], 5, 1), ([16, 16], 0, 4), ([2, 16], 0, 2), ([16, 16], 3, 8), ([], 2, 1)],
)
def test_workers_fit_on_their_nodes(cores, workers, threads):
    assert fitting(cores, workers) == threads


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background inherits that it is ignored
from tuban.inference.connection import connected
from tuban.inference.settings import InferenceSettings
with connected(InferenceSettings(workers=1, threads=1)):
    import ray
    actor = ray.remote(num_cpus=1)(type("Sleeper", (), {"sleep": lambda self: time.sleep(600)})).remote()
    ref = actor.sleep.remote()
    print(ray._private.worker._global_node.get_session_dir_path(), flush=True)
    ray.get(ref)
"""


def processes_of(session) -> Iterator[str]:
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            told = entry.read_bytes() + (entry.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if session.encode() in told:
            yield entry.parent.name


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_leaves_neither_processes_nor_files():
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    run = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    session = run.stdout.readline().strip()
    assert Path(session).is_dir()
    assert len(list(processes_of(session))) > 2
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode != 0
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert "oken authentication" not in said
    until = time.monotonic() + 20
    while list(processes_of(session)) and time.monotonic() < until:
        time.sleep(0.2)
    assert list(processes_of(session)) == []
    assert not Path(session).parent.exists()


def test_the_example_for_kubernetes_asks_for_settings_that_exist():
    """KubeRay itself is not run here: field names are those of ray.io/v1, read from its source."""
    job = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "kuberay-detect.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    asked = dict(
        word.removeprefix("inference.").split("=") for word in job["spec"]["entrypoint"].split() if "=" in word
    )
    settings = InferenceSettings.model_validate(asked)
    spec = job["spec"].pop("rayClusterSpec")
    assert set(job["spec"]) <= {
        "entrypoint", "entrypointNumCpus", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "backoffLimit",
    }  # fmt: skip
    assert set(spec) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    (group,) = spec["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    fits = int(container["resources"]["limits"]["cpu"]) * group["replicas"] - job["spec"]["entrypointNumCpus"]
    assert settings.workers * settings.threads <= fits
    for one in (group, spec["headGroupSpec"]):
        assert all(isinstance(value, str) for value in one["rayStartParams"].values())
        assert one["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == "/data"
