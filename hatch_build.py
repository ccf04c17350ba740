"""The build hook of the package: it compiles kernels/ into models/kernels.so."""

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MACHINES = {62: "x86_64", 183: "aarch64"}
"""Names of machines in wheel tags, by the number of the machine in an ELF file (e_machine)."""


def platform_of(library: Path) -> str:
    """Return the platform of a compiled library; it is not this machine's if CC names a cross-compiler."""
    machine = int.from_bytes(library.read_bytes()[18:20], "little")
    return f"linux-{MACHINES[machine]}" if machine in MACHINES else sysconfig.get_platform()


class Kernels(BuildHookInterface[Any]):
    """Compiles the kernels. Without a C compiler everything still works, but int8 is slower."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the kernels, and tag the wheel for this platform only."""
        root = Path(self.root)
        library = root / "models/kernels.so"
        command = ["sh", str(root / "kernels/build.sh"), str(library)]
        if subprocess.run(command, check=False).returncode:
            self.app.display_warning("kernels/ was not compiled (no C compiler?): int8 will take 1.5 times as long")
            return
        build_data["artifacts"].append("models/kernels.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_of(library).translate(str.maketrans('-.', '__'))}"
