"""Programs of the operating system that tests run, and a port for them."""

import os
import shutil
import socket

import pytest


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


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
