"""Checks a path that should be the directory of a model, and says what to pass instead.

A folder of transformers' Trainer has its weights in checkpoint-500/, checkpoint-1000/ and so on. A name such as
dslim/bert-base-NER belongs to the Hugging Face hub, and nothing is downloaded here.
"""

import json
import re
import shlex
import sys
from pathlib import Path

from models.errors import CheckpointError
from models.manifest import MANIFEST

CONFIG = "config.json"
STATE = "trainer_state.json"
WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*")
OTHER_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"}
"""Suffixes of weights under another name, or of another library."""
OF_TRAINER = {"training_args", "optimizer", "scheduler", "scaler", "rng_state"}
"""Names, without suffix, of the Trainer's other files; they are not weights."""
HUB_ID = re.compile(r"(?:https?:/+huggingface\.co/)?(\w[\w.-]*(?:/\w[\w.-]*)?)")
CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def check_directory(directory: Path) -> None:
    """Raise CheckpointError for a directory that does not exist, or that has only checkpoints of a Trainer."""
    if not directory.exists():
        _refuse_absent(directory)
    _check_adapter(directory)
    if directory.is_dir() and not any(path for pattern in WEIGHTS for path in directory.glob(pattern)):
        _refuse_bundle(directory)
        _refuse_checkpoints(directory)
        _refuse_other_weights(directory)


def _refuse_absent(directory: Path) -> None:
    found = HUB_ID.fullmatch(str(directory))
    if found is None:
        raise CheckpointError(f"{directory / CONFIG} does not exist; pass a directory with {CONFIG}")
    name = found[1]
    folder = name.rpartition("/")[2]
    raise CheckpointError(
        f"{directory} is not a local directory; correct it, or if it is a model of the Hugging Face hub, get it with "
        f"`hf download {name} --local-dir {folder}`, and pass {folder}"
    )


def _check_adapter(directory: Path) -> None:
    if (directory / "adapter_config.json").exists():
        raise CheckpointError(
            f"{directory} has adapter_config.json, expected whole weights; merge the adapter with merge_and_unload of "
            "peft, and save the model"
        )


def _refuse_bundle(directory: Path) -> None:
    if (directory / MANIFEST).exists():
        serve = shlex.join(["bertheads-serve", "--bundle", str(directory)])
        raise CheckpointError(f"{directory} is a bundle, expected weights of PyTorch; serve it as it is: {serve}")


def _refuse_other_weights(directory: Path) -> None:
    found = sorted(
        path.name for path in directory.iterdir() if path.suffix in OTHER_WEIGHTS and path.stem not in OF_TRAINER
    )
    if found:
        raise CheckpointError(
            f"{directory} has {found[0]}, expected model.safetensors or pytorch_model.bin; rename it if it holds these "
            "weights, or save the model with save_pretrained of transformers, in PyTorch"
        )


def _refuse_checkpoints(directory: Path) -> None:
    numbered = {int(found[1]): path for path in directory.iterdir() if (found := CHECKPOINT.fullmatch(path.name))}
    numbered = {number: path for number, path in numbered.items() if (path / CONFIG).is_file()}
    if not numbered:
        return
    newest = numbered[max(numbered)]
    best = _best(directory, newest)
    which = "newest" if best is None else f"best by {STATE}"
    chosen = best or newest
    raise CheckpointError(
        f"{directory} has no weights, only {len(numbered)} checkpoints of a Trainer; the {which} is {chosen.name}: run "
        f"`{_command(directory, chosen)}`"
    )


def _best(directory: Path, newest: Path) -> Path | None:
    """Return the checkpoint that the Trainer names as best, if it still exists."""
    for path in (directory / STATE, newest / STATE):
        try:
            found = json.loads(path.read_text(encoding="utf8"))["best_model_checkpoint"]
            best = directory / Path(found.replace("\\", "/")).name
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
        if CHECKPOINT.fullmatch(best.name) and (best / CONFIG).is_file():
            return best
    return None


def _command(directory: Path, chosen: Path) -> str:
    """Return the command of this process, with the checkpoint in place of the directory."""
    words = sys.argv[1:]
    if str(directory) not in [str(Path(word)) for word in words]:
        words = ["import", str(directory), "--out", "BUNDLE"]
    return shlex.join(["python", "-m", "training", *(str(chosen) if Path(w) == directory else w for w in words)])
