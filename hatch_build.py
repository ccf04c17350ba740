"""What installing does beside copying: it compiles kernels/ into models/kernels.so."""

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Kernels(BuildHookInterface[Any]):
    """Compiles the kernels; without a C compiler all works as well, and int8 is slower."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say that a wheel is for this kind of machine alone."""
        root = Path(self.root)
        command = ["sh", str(root / "kernels/build.sh"), str(root / "models/kernels.so")]
        if subprocess.run(command, check=False).returncode:
            self.app.display_warning("kernels/ was not compiled (no C compiler?): int8 will take 1.5 times as long")
            return
        build_data["artifacts"].append("models/kernels.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().translate(str.maketrans('-.', '__'))}"
