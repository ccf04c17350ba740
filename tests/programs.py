"""Programs that tests run, environments with clients of the service, and a port."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import venv
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bertheads"
"""What is installed once for all runs on a machine."""


def program(*names: str, package: str) -> str:
    """Return where the first of some programs is; skip the test without any, but fail where CI is set."""
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    sentence = f"there is no {' or '.join(names)}; apt-get install {package}"
    if os.environ.get("CI"):  # there, no check shall get lost
        pytest.fail(sentence)
    pytest.skip(sentence)


def python_with(name: str, *packages: str) -> Path:
    """Return the Python of an environment with some packages."""
    digest = hashlib.sha256(repr((list(packages), sys.version_info[:2])).encode()).hexdigest()[:16]
    directory = CACHE / f"{name}-{digest}"
    if not (directory / "complete").exists():
        venv.create(directory, clear=True, with_pip=True)
        command = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-4000:]
        (directory / "complete").touch()
    return directory / "bin" / "python"


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
