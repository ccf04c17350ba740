"""A process on the CUDA stand-ins: its environment, its log, and the output of ONNX Runtime."""

import json
import os
import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.standins.build import built
from tests.standins.device_log import DeviceLog, read_logs

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("GPU_PYTHON") or ROOT / ".venv/gpu/bin/python")
"""Of an environment that has onnxruntime-gpu in place of onnxruntime; `make gpu-check` makes it."""
PATIENCE = 120

PLACED = re.compile(r"placed on \[(\w+)\]\. Number of nodes: (\d+)")
COPIES = re.compile(r"(\d+) Memcpy nodes are added")
ATTENTION = re.compile(r"SdpaKernel=(\w+)")


@dataclass(frozen=True)
class EmulatedGPU:
    """Runs programs on devices of one compute capability."""

    logs: Path
    """Directory of their logs."""
    capability: int = 90
    settings: dict[str, Any] = field(default_factory=dict)
    """STANDIN_* without that prefix, as in tests/standins/build.py."""

    libraries: Path = field(default_factory=built)

    @property
    def environment(self) -> dict[str, str]:
        settings = self.settings | {"CAPABILITY": self.capability, "LOG": self.logs}
        return without_settings() | {
            "LD_LIBRARY_PATH": str(self.libraries),
            **{f"STANDIN_{name}": str(value) for name, value in settings.items()},
        }

    def read(self) -> list[DeviceLog]:
        return read_logs(self.logs)

    def probe(self, bundle: Path, *options: str) -> "Probe":
        """Run tests/standins/probe.py on a bundle."""
        command = ("-m", "tests.standins.probe", str(bundle), *options)
        done = run_python(*command, environment=self.environment | {"ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"})
        assert done.returncode == 0, done.stderr[-4000:]
        return Probe(done)


class Probe:
    """What a probe found."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.attention = Counter(ATTENTION.findall(done.stdout))
        """How many times each kernel computed the attention of a layer."""
        self.nodes = [(provider, int(count)) for provider, count in PLACED.findall(done.stderr)]
        """Nodes of each graph on each provider."""
        self.copy_nodes = sum(map(int, COPIES.findall(done.stderr)))
        """Copy nodes that ONNX Runtime added, because a tensor is not on the device that needs it."""


def run_python(*arguments: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run the Python that has onnxruntime-gpu until it ends."""
    return subprocess.run(
        [PYTHON, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )


def without_settings() -> dict[str, str]:
    """Return the environment, with this directory's packages and no settings of the service."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BERTHEADS_", "STANDIN_"))}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
