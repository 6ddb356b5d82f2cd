"""Starts Ray on this machine or connects to a cluster, quietly, and undoes it afterwards."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tuban.errors import MissingExtraError
from tuban.inference.backends import available_cores
from tuban.inference.cluster import Cluster, ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tuban.inference.settings import InferenceSettings

# Ray's shared memory on this machine: parts on their way. What does not fit goes to its temporary folder.
_STORE = 200 * 2**20
# Seconds for the first answer of a cluster's machine.
_KNOCK_S = 10.0
# No reports to Ray's makers, no metrics, no warnings past Python's logging, no uv project rebuilt for each worker.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_BACKEND_LOG_LEVEL": "error",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def connected(settings: InferenceSettings) -> Iterator[Cluster | None]:
    """Yield the cluster that the settings ask for; None where this process does all itself.

    A cluster on this machine is started and ended here, with all its processes and files. One that the caller has
    connected to (`ray.init`) is used and left as it is.

    Raises:
        ClusterError: it cannot be started or reached.
        MissingExtraError: Ray is not installed.
    """
    if not settings.workers and settings.cluster is None:
        yield None
        return
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("inference.workers needs Ray; pip install 'tuban[ray]', or use inference.workers=0")
    with ExitStack() as stack:
        stack.enter_context(_environment())
        import ray

        stack.enter_context(_hushed())
        alone = False
        if not ray.is_initialized():
            stack.enter_context(_kept_signal())
            stack.callback(_forget_token)
            alone = settings.cluster is None
            if alone:
                folder = tempfile.TemporaryDirectory(prefix="tuban-ray-", ignore_cleanup_errors=True)
                _start(ray, settings, stack.enter_context(folder))
            else:
                _join(ray, str(settings.cluster))
            stack.callback(ray.shutdown)
        cluster = Cluster(ray, settings, shared=not alone)
        stack.callback(cluster.close)
        yield cluster


def _start(ray: Any, settings: InferenceSettings, folder: str) -> None:
    """Start Ray on this machine, reachable by this process alone, its files in a folder that is removed."""
    threads = settings.threads or max(1, available_cores() // settings.workers)
    # A token of its own; otherwise Ray would write one into the home folder, which may be read-only.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    _forget_token()
    try:
        ray.init(
            address="local",
            num_cpus=settings.workers * threads,
            object_store_memory=_STORE,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=folder,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"Ray cannot be started in {folder} ({_one_line(error)}); set TMPDIR to a folder with a short name and "
            "free space, or use inference.workers=0"
        ) from error


def _join(ray: Any, address: str) -> None:
    """Connect to a running cluster."""
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"the Ray cluster {address!r} cannot be reached ({_one_line(error)}); give the address that `ray start "
            "--head` printed, HOST:PORT, or `auto` on one of its machines; versions of Ray and Python must be equal"
        ) from error


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" not in address and host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _forget_token() -> None:
    """Let Ray look for its token again: it keeps the first it finds, as long as the process lives."""
    loader = importlib.import_module("ray._raylet").AuthenticationTokenLoader
    loader.instance().reset_cache()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _environment() -> Iterator[None]:
    """Set `_ENVIRONMENT` for what Ray starts, where it is not set already; Ray's variables are undone afterwards."""
    before = set(os.environ)
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in before})
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_") and name not in before]:
            del os.environ[name]


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep what Ray says of itself off the terminal: what matters is said by `Crew`, in a line."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    # Deaths of workers it prints on stdout, where results belong, and no setting keeps it from that: the thread that
    # listens for them is given nothing to do.
    module = importlib.import_module("ray._private.worker")
    listen = getattr(module, "listen_error_messages", None)
    module.listen_error_messages = _deaf  # type: ignore[attr-defined]
    try:
        yield
    finally:
        logger.setLevel(level)
        module.listen_error_messages = listen  # type: ignore[attr-defined]


def _deaf(*_: Any) -> None:
    """Stand in for a listener."""


@contextmanager
def _kept_signal() -> Iterator[None]:
    """Put back the handler of SIGTERM, which `ray.init` replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
