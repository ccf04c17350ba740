"""If these fail, several processes train another model than one does, or a lost process goes unnoticed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from models.checkpoint import Checkpoint, read_checkpoint
from tests.programs import free_port
from tests.training.corpora import FIXTURES, small_corpus

ROOT = Path(__file__).parents[3]
RECIPE = """
tokenizer = "{tokenizer}"
corpus = "{corpus}"
layers = 2
width = 32
attention_heads = 2
batch_size = 8
max_length = 48
rate = 2e-3
dropout = 0.0
word_vectors = true
threads = 1
evaluate_every = 1000
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("processes")
    path = directory / "recipe.toml"
    path.write_text(RECIPE.format(tokenizer=FIXTURES, corpus=small_corpus(directory, documents=40, sentences=30)))
    return path


def start(count: int, recipe: Path, out: Path, *settings: str) -> subprocess.Popen[str]:
    """Start a run in `count` processes by torchrun, at a port of its own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    return launch([sys.executable, *launcher, "-m", "training", "pretrain"], recipe, out, settings)


def start_nodes(count: int, recipe: Path, out: Path, *settings: str) -> list[subprocess.Popen[str]]:
    """Start a run as on `count` machines of one process each, all of them this one."""
    environment = {"FIRST": "127.0.0.1", "NODES": str(count), "RENDEZVOUS": str(free_port())}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return [launch(["deploy/pretraining/nodes.sh"], recipe, out, settings, **environment) for _ in range(count)]


def launch(
    command: list[str], recipe: Path, out: Path, settings: Sequence[str], **environment: str
) -> subprocess.Popen[str]:
    words = [str(recipe), "--out", str(out), *(word for setting in settings for word in ("--set", setting))]
    whole = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen([*command, *words], cwd=ROOT, env=whole, text=True, stderr=subprocess.PIPE, process_group=0)


def finish(run: subprocess.Popen[str]) -> str:
    _, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors[-2000:]
    return errors


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss/fill-mask"] for line in lines if "loss/fill-mask" in line]


def assert_alike(first: Checkpoint, second: Checkpoint) -> None:
    for one, other in zip(first.encoder.parameters(), second.encoder.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_train_as_one_stop_together_and_notice_a_lost_one(recipe: Path, tmp_path: Path) -> None:
    """Forked; the tests below take seconds longer, since torchrun starts them."""
    command = [sys.executable, "-m", "tests.training.run.forked", str(recipe), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=1e-5)
    one, *others = (read_checkpoint(tmp_path / name) for name in ("one", "two", "stopped"))
    for other in others:
        assert_alike(one, other)
    assert done.stderr.count("interrupted at step 5; checkpoint saved") == 1
    assert "lost another one" in done.stderr and "continues from the last checkpoint" in done.stderr


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_as_one(recipe: Path, tmp_path: Path) -> None:
    """Over 50 steps, masks not shared out evenly; then the second half once more, with another number of processes."""
    runs = {
        "one": start(1, recipe, tmp_path / "one", "steps=50", "save_every=25"),
        "two": start(2, recipe, tmp_path / "two", "steps=50", "save_every=25"),
    }
    for run in runs.values():
        finish(run)
    first, second = (read_checkpoint(tmp_path / name) for name in runs)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=1e-5)
    assert_alike(first, second)
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "two" / name).unlink()
    finish(start(1, recipe, tmp_path / "two", "steps=50", "save_every=25"))  # goes on from step 25, alone
    resumed = read_checkpoint(tmp_path / "two")
    assert_alike(first, resumed)


@pytest.mark.slow
def test_two_machines_train_as_one(recipe: Path, tmp_path: Path) -> None:
    runs = [start(1, recipe, tmp_path / "one", "steps=20"), *start_nodes(2, recipe, tmp_path / "two", "steps=20")]
    for run in runs:
        finish(run)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=1e-5)
    first, second = (read_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert_alike(first, second)


@pytest.mark.slow
def test_a_lost_process_ends_the_run_with_a_sentence_and_a_good_checkpoint(recipe: Path, tmp_path: Path) -> None:
    run = start(2, recipe, tmp_path / "run", "steps=100000", "save_every=5")
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "run").glob("checkpoints/step-????????")) and time.monotonic() < deadline:
            time.sleep(0.1)
        workers = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(workers[-1]), signal.SIGKILL)
        _, errors = run.communicate(timeout=120)
    finally:
        run.kill()
        run.wait()
    assert run.returncode != 0
    assert "lost another one" in errors and "continues from the last checkpoint" in errors
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-????????"))[-1]
    assert list(read_checkpoint(newest).heads) == ["fill-mask", "nsp"]
