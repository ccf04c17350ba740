"""The libraries under test, each compiled once."""

from pathlib import Path

import pytest

from tests.kernels.libraries import FEATURES, LEVELS, NEEDS, VNNI, compiled
from tests.programs import program


@pytest.fixture(scope="session")
def best() -> Path:
    """The library as installed."""
    return compiled("best", "")


@pytest.fixture(scope="session", params=["best", "without", "clang", *LEVELS, *["amx"] * VNNI])
def library(request: pytest.FixtureRequest) -> Path:
    """The library as installed, without products, compiled by Clang, at each level without AMX, and with AMX emulated.

    The products of a level without AMX are by VNNI.
    """
    level = request.param
    if level == "best":
        found: Path = request.getfixturevalue(level)
        return found
    if not NEEDS.get(level, set()) <= FEATURES:
        pytest.skip(f"this processor is below {level}")
    if level == "clang":
        return compiled(level, "", program("clang", package="clang"))
    flags = {"without": "-DWITHOUT_PRODUCTS", "amx": "-include tests/kernels/emulated_amx.h"}
    return compiled(level, flags.get(level, f"-DVECTORS={level} -DWITHOUT_AMX"))
