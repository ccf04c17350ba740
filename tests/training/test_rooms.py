"""If these fail, the packages of training/ depend on each other in a circle, or code stands where its readers do not
look for it."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "training"
FLOORS = ["errors", "run", "text", "scoring", "evaluation", "pretraining", "finetuning", "parity", "exporting", "head"]
FLOORS += ["__main__"]
"""Parts of training/, lowest first: each imports those before it, and none after it."""
NO_PACKAGE = {"recipes"}


def modules(root: Path) -> dict[str, Path]:
    """Return the files of root/training by module name; packages themselves are left out."""
    files = (root / "training").rglob("*.py")
    return {".".join(file.relative_to(root).with_suffix("").parts): file for file in files if file.stem != "__init__"}


def imports_of(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules among the `known` ones that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name in known)


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Return for every module of training/ those that it imports."""
    known = modules(root)
    return {name: set(imports_of(file, known)) for name, file in known.items()}


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[1])


def upward(found: dict[str, set[str]]) -> list[str]:
    """Return the imports of a higher floor, as "importer → imported"."""
    inside = {name: theirs for name, theirs in found.items() if name.split(".")[1] not in NO_PACKAGE}
    arrows = [(name, other) for name, theirs in inside.items() for other in theirs]
    return [f"{name} → {other}" for name, other in sorted(arrows) if floor(other) > floor(name)]


def test_every_module_has_a_floor() -> None:
    parts = {path.stem for path in TRAINING.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__"} == set(FLOORS)


def test_no_room_imports_a_room_above_it() -> None:
    assert upward(imports()) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' ← '.join(error.args[1])}")


def test_packages_import_nothing() -> None:
    """A package that imports its modules would load torch for commands that need none, and hide circles."""
    packages = {file: set(imports_of(file, modules(ROOT))) for file in TRAINING.rglob("__init__.py")}
    assert not any(packages.values()), packages


def test_tests_mirror_the_rooms() -> None:
    """A test of a module stands in the folder of its room; a folder has no tests but of its room."""
    folders = {path.parent.name for path in Path(__file__).parent.rglob("test_*.py")} - {"training"}
    assert folders == set(FLOORS) - {"errors", "__main__"}


def test_an_arrow_up_and_a_circle_are_found(tmp_path: Path) -> None:
    """The checks above, on three modules that break them; an import inside a function counts as well."""
    written = {
        "run/a": "from training.text.b import c",
        "text/b": "from training.text import d",
        "text/d": "def f():\n    import training.text.b",
    }
    for name, source in written.items():
        file = tmp_path / "training" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    found = imports(tmp_path)
    assert upward(found) == ["training.run.a → training.text.b"]
    with pytest.raises(CycleError):
        TopologicalSorter(found).prepare()
