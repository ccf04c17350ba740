"""The libraries that tests run, each compiled once."""

from pathlib import Path

import pytest

from tests.kernels.libraries import FEATURES, LEVELS, NEEDS, VNNI, compiled
from tests.programs import program


@pytest.fixture(scope="session")
def best() -> Path:
    """The library as it is installed."""
    return compiled("best", "")


@pytest.fixture(scope="session", params=["best", "without", "clang", *LEVELS, *["tiles"] * VNNI])
def library(request: pytest.FixtureRequest) -> Path:
    """As it is installed, without products, by Clang, of each level without tiles, and with tiles.

    The products of a level without tiles are by VNNI.
    """
    level = request.param
    if level == "best":
        found: Path = request.getfixturevalue(level)
        return found
    if not NEEDS.get(level, set()) <= FEATURES:
        pytest.skip(f"this processor is below {level}")
    if level == "clang":
        return compiled(level, "", program("clang", package="clang"))
    flags = {"without": "-DWITHOUT_PRODUCTS", "tiles": "-include tests/kernels/emulated_tiles.h"}
    return compiled(level, flags.get(level, f"-DVECTORS={level} -DWITHOUT_TILES"))
