"""Programs of the operating system that the tests of deploy/ run."""

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """Return where a program is; skip the test without it, but fail where CI is set, so that no check is lost there."""
    path = shutil.which(name)
    if path is None:
        sentence = f"{name} is not installed; apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return path
