"""Programs that tests run, environments with clients of the service, and a port."""

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bertheads"
"""Installed or compiled once for all runs on a machine."""


def program(*names: str, package: str) -> str:
    """Return where the first of some programs is; skip the test without any, but fail if CI is set."""
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    sentence = f"there is no {' or '.join(names)}; apt-get install {package}"
    if os.environ.get("CI"):  # no check may be skipped there
        pytest.fail(sentence)
    pytest.skip(sentence)


def made_once(name: str, key: object, make: Callable[[Path], object]) -> Path:
    """Return a directory that `make` filled, now or in an earlier run with an equal key; processes take turns."""
    directory = CACHE / f"{name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(f"{directory}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
            (directory / "complete").touch()
    return directory


def python_with(name: str, *packages: str) -> Path:
    """Return the Python of an environment with some packages."""

    def install(directory: Path) -> None:
        venv.create(directory, with_pip=True)
        command = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-4000:]

    return made_once(name, (list(packages), sys.version_info[:2]), install) / "bin" / "python"


def npm_packages(locked: Path) -> Path:
    """Return a directory that has the packages of a lock file."""
    npm = program("npm", package="nodejs npm")

    def install(directory: Path) -> None:
        shutil.copytree(locked, directory, dirs_exist_ok=True)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-4000:]

    return made_once("npm", (locked / "package-lock.json").read_bytes(), install)


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU and its driver."""
    return Path("/dev/nvidiactl").exists()


def free_port() -> int:
    """Return a free local port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
