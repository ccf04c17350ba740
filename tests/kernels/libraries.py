"""Compiles the library of kernels, for this processor or an older one."""

import os
import platform
import subprocess
from pathlib import Path

from tests.programs import made_once, program

ROOT = Path(__file__).parents[2]
LEVELS = ["x86_64", "x86_64_v3", "x86_64_v4", "x86_64_v4_vnni"] if platform.machine() == "x86_64" else ["generic"]
V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
NEEDS = {"x86_64_v3": {"avx2", "fma", "bmi2"}, "x86_64_v4": V4, "x86_64_v4_vnni": V4 | {"avx512_vnni"}}
FEATURES = set(Path("/proc/cpuinfo").read_text().split())
AMX = {"amx_tile", "amx_int8", "amx_bf16"} <= FEATURES
VNNI = NEEDS["x86_64_v4_vnni"] <= FEATURES


def compiler() -> str:
    """Return the compiler in CC, or the one that build.sh chooses."""
    return os.environ.get("CC") or program("cc", "gcc", "clang", package="gcc")


def compiled(name: str, flags: str, cc: str = "") -> Path:
    """Return the library, compiled once for each state of its sources; its directory's name begins with `name`.

    Paths in `flags` are relative to the repository, so that its copies share what was compiled.
    """
    environment = os.environ | {"CC": cc or compiler(), "CFLAGS": f"-Werror {flags}"}
    version = subprocess.run([*environment["CC"].split(), "--version"], capture_output=True, check=True).stdout
    files = sorted([*ROOT.glob("kernels/*"), *ROOT.glob("tests/kernels/*.h")])

    def build(directory: Path) -> None:
        command = ["sh", "kernels/build.sh", str(directory / "kernels.so")]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)

    told = [environment.get(each) for each in ("CC", "CFLAGS", "LDFLAGS")]
    return made_once(name, ([file.read_bytes() for file in files], version, told), build) / "kernels.so"
