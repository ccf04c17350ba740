"""A run on disk: checkpoints that appear whole or not at all, metrics, and what the command was.

OUT/checkpoints/step-00001000/   model.safetensors, config.json, heads.json, tokenizer …, run.safetensors, run.json
OUT/metrics.jsonl  OUT/metrics.png  OUT/tensorboard/
OUT/                             the finished model, in the layout of a checkpoint
"""

import json
import shutil
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.tensorboard import SummaryWriter

from models.checkpoint import Checkpoint, head_weights, read_checkpoint, write_checkpoint
from training.errors import TrainingError
from training.files import sync, write_whole
from training.plots import plot_metrics
from training.processes import Processes

FREE = ("save_every", "plateau_after")
"""Fields of a recipe that may change from one start to the next: no weight depends on them."""
KEPT = 2
"""Checkpoints that stay; older ones go once a newer one is whole."""


class Run:
    """The directory of a run, its recipe fixed at the first start; of several processes the first one writes."""

    def __init__(self, out: Path, recipe: object, processes: Processes | None = None) -> None:
        assert is_dataclass(recipe) and not isinstance(recipe, type)
        self.out = out
        self.checkpoints = out / "checkpoints"
        self.processes = processes or Processes()
        self._board: SummaryWriter | None = None
        if self.processes.first:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._fix_recipe(json.loads(json.dumps(asdict(recipe), default=str)))
        self.processes.wait()

    def _fix_recipe(self, recipe: dict[str, Any]) -> None:
        path = self.out / "recipe.json"
        if self.finished and not path.exists():
            raise TrainingError(f"{self.out} holds a model that no run has made there; name another --out")
        before = json.loads(path.read_text(encoding="utf8")) if path.exists() else recipe
        changed = [key for key in recipe if key not in FREE and before.get(key, recipe[key]) != recipe[key]]
        if changed:
            key = changed[0]
            raise TrainingError(
                f"{self.out} began with {key} = {before.get(key)!r}, now it is {recipe[key]!r}; pass the same "
                "recipe to resume, or another --out"
            )
        write_whole(path, json.dumps(recipe, indent=2) + "\n")

    @property
    def finished(self) -> bool:
        return (self.out / "model.safetensors").exists()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append a line to metrics.jsonl, and to what TensorBoard reads."""
        if not self.processes.first:
            return
        if self._board is None:
            self._board = SummaryWriter(str(self.out / "tensorboard"), purge_step=step)
        for key, value in values.items():
            self._board.add_scalar(key, value, step)
        self._board.flush()
        with (self.out / "metrics.jsonl").open("a", encoding="utf8") as file:
            file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")

    def log_figures(self, step: int, figures: dict[str, dict[str, float]]) -> None:
        """Append the validation figures of each head, and draw all curves anew."""
        values = {f"validation/{head}/{key}": value for head, entry in figures.items() for key, value in entry.items()}
        if values:
            self.log(step, values)
        plot_metrics(self.out / "metrics.jsonl", self.out / "metrics.png")

    def drop_metrics_after(self, step: int) -> None:
        """Forget lines of work that a resumed run will do again."""
        path = self.out / "metrics.jsonl"
        if path.exists():
            lines = [
                line for line in path.read_text(encoding="utf8").splitlines(True) if json.loads(line)["step"] <= step
            ]
            write_whole(path, "".join(lines))

    def save(self, step: int, checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Write everything that the rest of the run depends on."""
        if not self.processes.first:
            return
        target = self.checkpoints / f"step-{step:08d}"
        temporary = target.with_name(target.name + ".partial")
        shutil.rmtree(temporary, ignore_errors=True)
        write_checkpoint(checkpoint, temporary)
        save_file(optimizer_tensors(optimizer), temporary / "run.safetensors")
        (temporary / "run.json").write_text(json.dumps({"step": step, **state}), encoding="utf8")
        sync(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for old in self.saved()[:-KEPT]:
            shutil.rmtree(old)

    def saved(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(path for path in self.checkpoints.glob("step-*") if not path.name.endswith(".partial"))

    def resume(self, checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Load the newest checkpoint into the given objects; None where there is none."""
        if not self.saved():
            if self.processes.first:
                self.drop_metrics_after(0)
            return None
        newest = self.saved()[-1]
        copy_weights(read_checkpoint(newest), checkpoint)
        load_optimizer(optimizer, load_file(newest / "run.safetensors"))
        state: dict[str, Any] = json.loads((newest / "run.json").read_text(encoding="utf8"))
        self.processes.wait()  # until all have read it
        if self.processes.first:
            self.drop_metrics_after(state["step"])
        return state

    def finish(self, checkpoint: Checkpoint) -> None:
        """Write the finished model to OUT, weights last, for `finished` looks for them."""
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


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed dropout for one step of one process, so that it depends on nothing that a resume would have to restore."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


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
