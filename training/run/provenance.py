"""Where a model comes from: the code, the recipe with its seed, and the hashes of the data.

    OUT/provenance.json   {"code": [{"package", "commit"}], "recipe", "seed", "inputs": {NAME: {"sha256", …}}}

`inputs` names every file, corpus, checkpoint and bundle that a run reads. A corpus has the hashes of its sources; a
checkpoint or a bundle has its own provenance, so a bundle contains its whole history. `code` has an entry for each
version of the code that the run was started with. Absolute paths are reduced to file names.
"""

import json
import os
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from models.manifest import MANIFEST
from training.run.atomic_files import write_whole

PACKAGE = "bertheads"
PROVENANCE = "provenance.json"
ROOT = Path(__file__).resolve().parents[2]
"""The checkout, if there is one."""
CODE = ("models/", "service/", "training/", "kernels/")
"""Folders in which an untracked file may be part of the program."""
CHANGED = "+changes"
"""Suffix of a commit whose files differ from those that ran."""


# ---- code ------------------------------------------------------------------------------------------------------------


def code(root: Path = ROOT) -> dict[str, Any]:
    """Return the package's version, and the commit of its checkout or None; CHANGED is added if files differ."""
    return {"package": f"{PACKAGE} {package_version(root)}", "commit": commit(root)}


def package_version(root: Path = ROOT) -> str:
    """Return the version of a checkout (pyproject.toml), otherwise of the installed package, or "unknown"."""
    if is_checkout(root):
        return str(project_of(root)["version"])
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def commit(root: Path = ROOT) -> str | None:
    """Return the commit; None outside a checkout, because a repository around an installation is another project's."""
    if not is_checkout(root) or Path(git(root, "rev-parse", "--show-toplevel") or "/").resolve() != root.resolve():
        return None
    head = git(root, "rev-parse", "--verify", "HEAD")
    return head and head + (CHANGED if is_changed(git(root, "status", "--porcelain") or "") else "")


def is_changed(status: str) -> bool:
    """Tell whether `git status --porcelain` lists a changed file, or an untracked one in a folder of code."""
    lines = status.splitlines()
    return any(line[:2] != "??" or line[3:].strip('"').startswith(CODE) for line in lines)


def is_checkout(root: Path) -> bool:
    return project_of(root).get("name") == PACKAGE


def project_of(root: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}
    project: dict[str, Any] = values.get("project", {})
    return project


def git(root: Path, *words: str) -> str | None:
    """Return the output of git for `root`, ignoring GIT_ variables; None without git, or if it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(root), *words]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except OSError:
        return None
    return found.stdout.rstrip("\n") if found.returncode == 0 else None


# ---- runs ------------------------------------------------------------------------------------------------------------


def write_provenance(out: Path, recipe: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    """Write the provenance of the run in `out`; `hashes` has those of its inputs, by path."""
    before = read_object(out / PROVENANCE).get("code", [])
    now, names = code(), names_of(hashes)
    values = {
        "code": before if now in before else [*before, now],
        "recipe": portable(dict(recipe)),
        "seed": recipe.get("seed"),
        "inputs": {names[path]: input_of(Path(path), found) for path, found in hashes.items()},
    }
    write_whole(out / PROVENANCE, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def names_of(paths: Iterable[str]) -> dict[str, str]:
    """Return the portable name of each path; if two are equal, the paths themselves."""
    names = {path: portable(path) for path in paths}
    several = list(names.values())
    return {path: name if several.count(name) == 1 else path for path, name in names.items()}


def input_of(path: Path, sha256: str) -> dict[str, Any]:
    """Return the hash of an input, and its own metadata."""
    corpus, bundle = read_object(path / "manifest.json"), read_object(path / MANIFEST)
    said = {key: corpus[key] for key in ("sources",) if key in corpus}
    said |= {key: bundle[key] for key in ("name", "version", "provenance") if key in bundle}
    return {"sha256": sha256, **said, **({"provenance": found} if (found := trained(path)) else {})}


def trained(directory: Path) -> dict[str, Any]:
    """Return the provenance of a checkpoint: a finished run, its best/, or one of its steps; {} if it has none."""
    steps = directory.parent.parent if directory.parent.name == "checkpoints" else directory
    run = directory.parent if directory.name == "best" else steps
    return read_object(directory / PROVENANCE) or read_object(run / PROVENANCE)


def portable(value: Any) -> Any:
    """Reduce absolute paths, and those outside the working directory, to file names; also inside lists and tables."""
    if isinstance(value, dict):
        return {key: portable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [portable(entry) for entry in value]
    if isinstance(value, str) and (Path(value).is_absolute() or ".." in Path(value).parts):
        return Path(value).name or value
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, {} if there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
