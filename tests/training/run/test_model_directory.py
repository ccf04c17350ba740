"""If these fail, someone who passes the wrong directory is not told which one to pass."""

import json
import sys
from pathlib import Path

import pytest

from models.errors import CheckpointError
from training.run.model_directory import check_directory
from training.run.start_from import read_base


def trainer_folder(directory: Path, *steps: int) -> Path:
    """A folder as a Trainer leaves it while it runs."""
    for step in steps:
        checkpoint = directory / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (checkpoint / name).touch()
        state(checkpoint, None)
    (directory / "training_args.bin").touch()
    (directory / "runs").mkdir()
    return directory


def state(checkpoint: Path, best: object) -> None:
    (checkpoint / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": best}))


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        check_directory(directory)
    return str(error.value)


def test_a_bundle_is_served_and_not_imported(tmp_path: Path) -> None:
    for name in ("bundle.json", "encoder.int8.bin", "encoder.int8.onnx"):
        (tmp_path / name).touch()
    sentence = f"is a bundle, expected weights of PyTorch; serve it as it is: bertheads-serve --bundle {tmp_path}"
    assert refusal(tmp_path) == f"{tmp_path} {sentence}"


def test_the_newest_checkpoint_of_a_trainer_is_named(tmp_path: Path) -> None:
    folder = trainer_folder(tmp_path / "out", 500, 1500, 1000)
    assert refusal(folder) == (
        f"{folder} has no weights, only 3 checkpoints of a Trainer; the newest is checkpoint-1500: run "
        f"`python -m training import {folder}/checkpoint-1500 --out BUNDLE`"
    )


@pytest.mark.parametrize("written", ["out/checkpoint-500", "/elsewhere/checkpoint-500", "C:\\out\\checkpoint-500"])
def test_the_best_checkpoint_of_a_trainer_is_preferred(written: str, tmp_path: Path) -> None:
    folder = trainer_folder(tmp_path / "out", 500, 1000)
    state(folder / "checkpoint-1000", written)
    assert "the best by trainer_state.json is checkpoint-500: run" in refusal(folder)


@pytest.mark.parametrize("best", ["out/checkpoint-7", "../secret", 3, None])
def test_a_best_checkpoint_that_is_gone(best: object, tmp_path: Path) -> None:
    folder = trainer_folder(tmp_path / "out", 500, 1000)
    state(folder / "checkpoint-1000", best)
    assert "the newest is checkpoint-1000" in refusal(folder)


def test_a_state_that_is_damaged(tmp_path: Path) -> None:
    folder = trainer_folder(tmp_path / "out", 500)
    (folder / "checkpoint-500/trainer_state.json").write_text("{")
    assert "the newest is checkpoint-500" in refusal(folder)


def test_the_command_is_that_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trainer_folder(tmp_path / "my out", 500)
    monkeypatch.setattr(sys, "argv", ["training", "import", f"{folder}/", "--out", "b", "--precision", "fp32"])
    expected = f"run `python -m training import '{folder}/checkpoint-500' --out b --precision fp32`"
    assert refusal(folder).endswith(expected)


def test_a_folder_with_weights_of_its_own(tmp_path: Path) -> None:
    folder = trainer_folder(tmp_path / "out", 500)
    (folder / "model.safetensors").touch()
    check_directory(folder)


@pytest.mark.parametrize(
    ("name", "hub", "folder"),
    [
        ("dslim/bert-base-NER", "dslim/bert-base-NER", "bert-base-NER"),
        ("distilbert-base-uncased", "distilbert-base-uncased", "distilbert-base-uncased"),
        ("https://huggingface.co/dslim/bert-base-NER", "dslim/bert-base-NER", "bert-base-NER"),
    ],
)
def test_a_name_of_the_hub(name: str, hub: str, folder: str) -> None:
    said = f"if it is a model of the Hugging Face hub, get it with `hf download {hub} --local-dir {folder}`, and pass"
    assert said in refusal(Path(name))


@pytest.mark.parametrize("name", ["./dslim/bert", "../bert", "/no/where", "a/b/c"])
def test_a_path_that_does_not_exist(name: str) -> None:
    directory = Path(name).resolve() if name.startswith("./") else Path(name)
    assert refusal(directory) == f"{directory}/config.json does not exist; pass a directory with config.json"


@pytest.mark.parametrize("name", ["weights.safetensors", "tf_model.h5", "model.onnx", "model.gguf"])
def test_weights_under_another_name(name: str, tmp_path: Path) -> None:
    for each in ("config.json", "training_args.bin", "optimizer.pt", name):
        (tmp_path / each).touch()
    assert refusal(tmp_path).startswith(f"{tmp_path} has {name}, expected model.safetensors or pytorch_model.bin; ")
    (tmp_path / name).unlink()
    check_directory(tmp_path)


def test_an_adapter_has_no_config_of_a_model(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).touch()
    assert "merge_and_unload of peft" in refusal(tmp_path)


def test_training_is_told_too(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the newest is checkpoint-500"):
        read_base(trainer_folder(tmp_path / "out", 500))
    with pytest.raises(CheckpointError, match="hf download dslim/bert-base-NER"):
        read_base(Path("dslim/bert-base-NER"))
