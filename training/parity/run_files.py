"""The data files of a finetuning run, unchanged since its start, for measuring heads at the export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.task import TaskName
from training.run.atomic_files import hash_of
from training.run.progress import tell
from training.run.provenance import read_object, trained
from training.text.file_formats import files_in

RECIPE, INPUTS = "recipe.json", "inputs.json"
LEVELS = 2
"""Levels above a checkpoint at which its run may be: RUN/checkpoints/step-…, RUN/best."""

Part = Literal["validation", "train"]


@dataclass(frozen=True)
class RunFiles:
    """The files in the recipe of a run, and the hash of each file at its start."""

    directory: Path
    recipe: dict[str, Any]
    hashes: dict[str, str]

    @classmethod
    def find(cls, checkpoint: Path) -> "RunFiles | None":
        """Return the files of the run that made a checkpoint; None if it was not a finetuning run."""
        path = checkpoint.resolve()
        for directory in (path, *path.parents[:LEVELS]):
            recipe = read_object(directory / RECIPE)
            if isinstance(recipe.get("heads"), dict):
                return cls(directory, recipe, read_object(directory / INPUTS))
        return None

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the run's provenance: code, recipe and inputs; {} if there is none."""
        return trained(self.directory)

    def files(self, head: str, task: TaskName, part: Part) -> list[Path]:
        """Return the unchanged files of a head; print a warning for the others."""
        entry = self.recipe["heads"].get(head)
        if not isinstance(entry, dict) or entry.get("task") != task:
            return []
        named = [Path(self.recipe.get("data") or "") / name for name in entry.get(part) or []]
        paths = [file for path in named for file in (files_in(path, task) if path.is_dir() else [path])]
        return [path for path in paths if self._is_the_same(path, head)]

    def reading(self, head: str) -> dict[str, Any]:
        """Return the arguments `columns` and `skip_broken` with which the run read the files of a head."""
        entry = self.recipe["heads"][head]
        return {"columns": entry.get("columns") or {}, "skip_broken": entry.get("skip_broken") or 0}

    def _is_the_same(self, path: Path, head: str) -> bool:
        if not path.is_file():
            tell(f"{path} of the run does not exist, so {head} is measured without it")
            return False
        before = self.hashes.get(str(path))
        if before and before != hash_of(path):
            tell(f"{path} has changed since the run read it (by SHA-256), so {head} is measured without it")
            return False
        return True
