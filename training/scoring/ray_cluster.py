"""Ray: embedded in the run, or a running cluster. Quiet, and without telemetry."""

import logging
import os
import secrets
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from models.cgroup import usable_cores
from training.errors import TrainingError
from training.run.interruption import handled

QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # messages of other processes about tasks that Ray repeats
    "RAY_USAGE_STATS_ENABLED": "0",
}
for name, value in QUIET.items():
    os.environ.setdefault(name, value)

import ray  # noqa: E402  # reads the environment once, when it is imported
import ray.data  # noqa: E402

__all__ = ["connected", "first_sentence", "ray", "resource"]

EMBEDDED = "local"
"""The address of an embedded Ray."""
FOLDER = "bertheads-ray-"
"""Prefix of the folder of its logs and sockets; a run that is killed with -9 leaves it in /tmp."""
MAX_CONNECTING = 10
"""Seconds to reach a cluster. Ray itself would try for two minutes, and then exit."""
OBJECT_STORE = 256 << 20
"""Bytes of chunks that an embedded Ray keeps in memory; more go to disk."""
REMEDY = (
    "expected auto or HOST:6379, on a node of a running cluster with the same Ray and Python; a cluster with tokens "
    "needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN; --ray alone uses the cores of this machine"
)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Start Ray or connect to a cluster, and disconnect at the end; an existing connection is used.

    Raise TrainingError if there is no cluster, or if its versions of Ray and Python differ.
    """
    if ray.is_initialized():
        yield
        return
    own = (
        TemporaryDirectory(prefix=FOLDER, dir="/tmp", ignore_cleanup_errors=True)
        if address is None
        else nullcontext("")
    )
    with own as folder:
        connect(address or EMBEDDED, folder)
        try:
            yield
        finally:
            ray.shutdown()


def connect(address: str, folder: str) -> None:
    """Start or connect Ray; an embedded one has logs and sockets in a folder, whose path must be short."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == EMBEDDED:
        options |= {"num_cpus": usable_cores(), "object_store_memory": OBJECT_STORE}
        options |= {"include_dashboard": False, "_temp_dir": folder}
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # otherwise Ray creates one in the home folder
    try:
        reach(address)
        with muted(), handled(signal.getsignal(signal.SIGTERM), [signal.SIGTERM]):  # Ray makes SIGTERM end the process
            ray.init(address, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise TrainingError(f"--ray {address}: {first_sentence(error)}; {REMEDY}") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def reach(address: str) -> None:
    """Raise OSError if nothing listens at the address, ValueError for a Ray client, which Ray Data does not support."""
    if "://" in address:
        raise ValueError("Ray Data needs its driver inside the cluster")
    if ":" in address:
        parts = urlsplit(f"//{address}")
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=MAX_CONNECTING).close()


@contextmanager
def muted() -> Iterator[None]:
    """Redirect file descriptor 2 inside the block: Ray's core writes its log level there, not to `sys.stderr`."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def first_sentence(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".") or type(error).__name__


def resource(name: str) -> int:
    """Return how many CPUs or GPUs the cluster has now."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(found.get(name, 0))
