"""If this breaks, serving needs torch, or the packages' arrows do not point one way."""

import subprocess
import sys

CODE = """
import sys
import service.app, service.__main__, service.server, service.supervisor
heavy = {"torch", "onnx", "transformers", "sklearn", "matplotlib", "training"} & set(sys.modules)
sys.exit(f"imported {sorted(heavy)}" if heavy else 0)
"""


def test_the_service_imports_no_torch_and_no_training() -> None:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
