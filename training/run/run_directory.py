"""A run on disk: checkpoints that appear whole or not at all, metrics, and the recipe.

OUT/checkpoints/step-00001000/   model.safetensors, config.json, heads.json, tokenizer …, run.safetensors, run.json,
                                 SHA256SUMS
OUT/recipe.json  OUT/inputs.json  recipe and inputs, which must not change from one start to the next
OUT/threads.json                  number of threads, which a later start keeps
OUT/provenance.json               the code, the recipe, and the hashes of all inputs
OUT/metrics.jsonl  OUT/metrics.png  OUT/tensorboard/
OUT/reports/HEAD/                 report of a finished head (finetuning): report.json, wrong.jsonl, pictures
OUT/                             the finished model, in the layout of a checkpoint
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.utils.tensorboard import SummaryWriter

from models.checkpoint import Checkpoint, head_weights, read_checkpoint, write_checkpoint, write_weights
from models.errors import BertheadsError
from models.manifest import MANIFEST
from training.errors import DataError, TrainingError
from training.run.atomic_files import damage, hash_of, sync, write_directory, write_whole
from training.run.byte_counts import in_units
from training.run.distributed import Processes
from training.run.plots import plot_metrics
from training.run.progress import tell
from training.run.provenance import PROVENANCE, write_provenance
from training.run.recipe import parse_recipe
from training.run.threads import settled_threads

FREE = ("save_every", "plateau_after", "threads")
"""Fields of a recipe that may change between two starts: at most the last bits of the weights depend on them."""
IDENTIFYING = ("manifest.json", MANIFEST, "model.safetensors", "model.safetensors.index.json")
"""The file that identifies a corpus (sources, vocabulary, counts), a bundle (all its files) or a checkpoint."""
WRITTEN = (
    *("config.json", "heads.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json", "model.safetensors"),
    *("recipe.json", "inputs.json", "threads.json", PROVENANCE, "metrics.jsonl", "metrics.png", "tensorboard", "best"),
    *("final.partial", "reports"),
)
"""The files that a run writes to OUT besides its checkpoints."""
KEPT = 2
"""Checkpoints that are kept; older ones are removed when a newer one is complete."""


class Run:
    """The directory of a run, whose recipe is fixed at the first start; only the first process writes."""

    def __init__(
        self, out: Path, recipe: object, processes: Processes | None = None, inputs: Iterable[Path] = ()
    ) -> None:
        """`inputs`: files and directories that the run reads, which must not change either."""
        assert is_dataclass(recipe) and not isinstance(recipe, type)
        self.out = out
        self.checkpoints = out / "checkpoints"
        self.metrics = out / "metrics.jsonl"
        self.processes = processes or Processes()
        self._board: SummaryWriter | None = None
        self._inputs: dict[str, str] = {}
        if self.processes.first:
            self._refuse_foreign()
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            values = as_json(recipe)
            self._fix_recipe(values, type(recipe))
            self._inputs = {str(path): fingerprint(path) for path in inputs}
            self._fix_inputs(self._inputs)
            if not self.finished:
                write_provenance(out, values, self._inputs)
        self.processes.wait()

    def check_inputs(self) -> None:
        """Raise TrainingError for an input that changed since the start; call it when everything was read."""
        for name, before in self._inputs.items():
            if fingerprint(Path(name)) != before:
                raise TrainingError(
                    f"{name} changed while it was read, expected an input that nothing writes to; run the same "
                    "command again when it is whole"
                )

    def set_threads(self, given: int) -> None:
        """Set the number of threads: `given`, or for 0 the number at the run's first start, or one per free core."""
        path = self.out / "threads.json"
        if self.processes.first:
            count, why = settled_threads(given, self._noted(path, {}).get("threads", 0))
            if why:
                tell(f"threads: {count} ({why})")
            write_whole(path, json.dumps({"threads": count}) + "\n")
        self.processes.wait()
        torch.set_num_threads(json.loads(path.read_text(encoding="utf8"))["threads"])

    def _refuse_foreign(self) -> None:
        """Raise TrainingError if OUT has files that a run would write, and no run has written them."""
        recipe, inputs = self.out / "recipe.json", self.out / "inputs.json"
        if self.finished and not recipe.exists():
            raise TrainingError(f"{self.out} holds a model that no run has written; name another --out")
        if self.checkpoints.is_dir() and (recipe.exists() or inputs.exists()):
            return
        found = [path for path in (*(self.out / name for name in WRITTEN), *self.saved()) if path.exists()]
        if found:
            raise TrainingError(f"{found[0]} exists, and no run has written it; move it, or name another --out")

    def _fix_recipe(self, recipe: dict[str, Any], kind: type[Any]) -> None:
        path = self.out / "recipe.json"
        before = completed(self._noted(path, recipe), kind)
        for key in sorted(before.keys() | recipe.keys()):
            if before.get(key) != recipe.get(key) and key not in FREE:
                raise TrainingError(
                    f"{self.out} was started with {key} = {before.get(key)!r}, now it is {recipe.get(key)!r}; pass the "
                    "same recipe to resume, or another --out"
                )
        write_whole(path, json.dumps(recipe, indent=2) + "\n")

    def _fix_inputs(self, hashes: dict[str, str]) -> None:
        path = self.out / "inputs.json"
        before = self._noted(path, hashes)
        for name, found in hashes.items():
            if found and before.get(name) and found != before[name]:
                raise TrainingError(
                    f"{name} changed since {self.out} was started (SHA-256 {found[:12]}…, expected "
                    f"{before[name][:12]}…); restore it to resume, or pass another --out"
                )
        known = {name: found for name, found in hashes.items() if found or name not in before}
        write_whole(path, json.dumps(before | known, indent=2) + "\n")

    def _noted(self, path: Path, now: dict[str, Any]) -> dict[str, Any]:
        """Return what the first start wrote to `path`, or `now` if no step was taken."""
        begun = self.finished or self.saved() or self.metrics.exists()
        if not begun or not path.exists():
            return now
        try:
            noted: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
        except ValueError as error:
            raise TrainingError(f"{path} is damaged ({error}); remove it if recipe and data are the same") from None
        return noted

    @property
    def finished(self) -> bool:
        return (self.out / "model.safetensors").exists()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append a line to metrics.jsonl and to the files of TensorBoard."""
        if not self.processes.first:
            return
        if self._board is None:
            self._board = SummaryWriter(str(self.out / "tensorboard"), purge_step=step)
        for key, value in values.items():
            self._board.add_scalar(key, value, step)
        self._board.flush()
        with self.metrics.open("a", encoding="utf8") as file:
            file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")

    def log_figures(self, step: int, figures: dict[str, dict[str, float]]) -> None:
        """Append the validation figures of each head, and draw all curves again.

        If the picture cannot be drawn, for lack of space or of fonts, the run continues.
        """
        values = {f"validation/{head}/{key}": value for head, entry in figures.items() for key, value in entry.items()}
        if values:
            self.log(step, values)
        if not self.metrics.exists():
            return
        try:
            plot_metrics(self.metrics, self.out / "metrics.png")
        except (DataError, OSError, ValueError) as error:
            tell(f"{self.out / 'metrics.png'} was not drawn ({error}); the run continues")

    def drop_metrics_after(self, step: int) -> None:
        """Remove the lines of steps that a resumed run will repeat."""
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf8").splitlines(True)
            write_whole(self.metrics, "".join(line for line in lines if step_of(line) <= step))

    def save(self, step: int, checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Write a checkpoint: everything that the remaining steps depend on."""
        if not self.processes.first:
            return

        def write(directory: Path) -> None:
            write_checkpoint(checkpoint, directory)
            write_weights(optimizer_tensors(optimizer), directory / "run.safetensors")
            (directory / "run.json").write_text(json.dumps({"step": step, **state}), encoding="utf8")

        write_directory(self.checkpoints / f"step-{step:08d}", write)
        for old in self.saved()[:-KEPT]:
            shutil.rmtree(old)

    def saved(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        return sorted(self.checkpoints.glob(f"step-{'[0-9]' * 8}"))

    def resume(self, checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Load the newest undamaged checkpoint into the given objects and return its state; None without a checkpoint.

        Damaged newer ones are removed. Raise TrainingError if all are damaged, or if the disk has no room for more.
        """
        self._check_space(checkpoint)
        newest = self._newest()
        if not newest:
            if self.processes.first:
                self.drop_metrics_after(0)
            return None
        copy_weights(read_checkpoint(newest), checkpoint)
        load_optimizer(optimizer, load_file(newest / "run.safetensors"))
        state: dict[str, Any] = json.loads((newest / "run.json").read_text(encoding="utf8"))
        self.processes.wait()  # until all processes have read it
        if self.processes.first:
            self.drop_metrics_after(state["step"])
            for damaged in self.saved()[self.saved().index(newest) + 1 :]:
                shutil.rmtree(damaged)
        return state

    def _check_space(self, checkpoint: Checkpoint) -> None:
        """Raise TrainingError if the checkpoints of this run will not fit on the disk, before hours of training."""
        if not self.processes.first:
            return
        modules = (checkpoint.encoder, *(head.module for head in checkpoint.heads.values()))
        parameters = {id(one): one for module in modules for one in module.parameters()}.values()
        weights = sum(one.nbytes for one in parameters)
        moments = 2 * sum(one.nbytes for one in parameters if one.requires_grad)
        there = sum(file.stat().st_size for path in self.saved() for file in path.iterdir())
        needed = (KEPT + 1) * (weights + moments) + weights - there
        free = shutil.disk_usage(self.out).free
        if free < needed:
            raise TrainingError(
                f"{self.out} has {in_units(free)} of free space, expected {in_units(needed)} for {KEPT + 1} "
                "checkpoints and the finished model; free some, or name another --out"
            )

    def _newest(self) -> Path | None:
        for path in reversed(self.saved()):
            found = damage(path)
            if not found:
                return path
            if self.processes.first:
                tell(f"{path}: {found}; the run removes it and resumes from the one before, if that is undamaged")
        if not self.saved():
            return None
        raise TrainingError(
            f"{self.checkpoints} has no undamaged checkpoint, expected one to resume from; restore one, or remove "
            "the directory to start again"
        )

    def finish(self, checkpoint: Checkpoint) -> None:
        """Write the finished model to OUT, weights last, because `finished` looks for them."""
        if self._board:
            self._board.close()
        if self.processes.first:
            self._write_final(checkpoint)
        self.processes.wait()

    def _write_final(self, checkpoint: Checkpoint) -> None:
        temporary = self.out / "final.partial"
        shutil.rmtree(temporary, ignore_errors=True)
        write_checkpoint(checkpoint, temporary)
        sync(temporary)
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == "model.safetensors"):
            path.replace(self.out / path.name)
        temporary.rmdir()


def completed(recipe: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return a noted recipe with defaults for keys that an older version lacks, also in its tables."""
    try:
        return as_json(parse_recipe(kind, recipe, "recipe.json"))
    except BertheadsError:  # the recipe of another command
        return recipe


def as_json(recipe: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe), default=str))
    return values


def fingerprint(path: Path) -> str:
    """Return a hash that identifies a data file, a corpus, a bundle or a checkpoint; "" for anything else."""
    found = [path] if path.is_file() else [path / name for name in IDENTIFYING if (path / name).is_file()]
    return hash_of(found[0]) if found else ""


def step_of(line: str) -> float:
    """Return the step of a line of metrics.jsonl; infinity for a line that a full disk has cut off."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return float("inf")


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed dropout for one step of one process, so that a resumed run needs no saved generator state."""
    state = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
    if torch.cuda.is_available():
        torch.manual_seed(state)
    else:  # without a GPU, torch.manual_seed records a stack trace each time, which takes milliseconds
        torch.default_generator.manual_seed(state)


def copy_weights(source: Checkpoint, target: Checkpoint) -> None:
    target.encoder.load_state_dict(source.encoder.state_dict())
    for name, head in target.heads.items():
        head.module.load_state_dict(head_weights(source.heads[name].module), strict=False)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value.clone() for index, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
