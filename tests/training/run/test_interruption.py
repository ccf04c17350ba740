"""If these fail, Ctrl-C loses steps, a run resumes at the wrong place, or its last message is wrong."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.corpora import FIXTURES, small_corpus
from tests.training.test_commands import write_texts
from training.__main__ import main
from training.finetuning import loop
from training.pretraining import pretrain as pretraining
from training.run.interruption import Interruption, handled, left_behind, raise_interrupted

ROOT = Path(__file__).parents[3]
SMALL = ["layers=1", "width=32", "attention_heads=2", "batch_size=8", "max_length=32", "threads=1", "steps=9"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("interruption"), documents=20, sentences=20)


@pytest.fixture(scope="module")
def pretrained(corpus: Path) -> list[str]:
    """The command of a pretraining run, without --out; what it writes is in "whole" beside the corpus."""
    recipe = corpus.with_name("pretrain.toml")
    recipe.write_text(f'corpus = "{corpus}"\ntokenizer = "{FIXTURES}"\n')
    command = ["pretrain", str(recipe), *(word for setting in SMALL for word in ("--set", setting))]
    main([*command, "--out", str(corpus.with_name("whole"))])
    return command


def signal_at(number: int, stop: int) -> Callable[..., None]:
    """A stand-in for `seed_step`: in step `stop`, counted from 0, the process gets a signal."""
    from training.run.run_directory import seed_step

    def seed(seed: int, step: int, rank: int = 0) -> None:
        seed_step(seed, step, rank)
        if step == stop:
            os.kill(os.getpid(), number)

    return seed


def interrupted(module: Any, number: int, stop: int, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(module, "seed_step", signal_at(number, stop))
        main(command)
    assert ended.value.code == 128 + number
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"interrupted at step {stop + 1}; checkpoint saved; the same command continues there"


def test_an_interrupted_pretraining_goes_on_where_it_was_and_ends_in_the_same_bytes(
    pretrained: list[str], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle twice, and in the last step."""
    command = [*pretrained, "--out", str(tmp_path / "parts")]
    for number, stop in ((signal.SIGINT, 2), (signal.SIGTERM, 5), (signal.SIGINT, 8)):
        interrupted(pretraining, number, stop, command, capsys)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    main(command)
    whole, parts = ((out / "model.safetensors").read_bytes() for out in (corpus.with_name("whole"), tmp_path / "parts"))
    assert whole == parts


def test_an_interrupted_finetuning_goes_on_where_it_was_and_ends_in_the_same_bytes(
    pretrained: list[str], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With early stopping, whose best checkpoint so far is kept too."""
    texts, recipe = write_texts(tmp_path / "texts.jsonl"), tmp_path / "recipe.toml"
    recipe.write_text(
        f'base = "{corpus.with_name("whole")}"\nsteps = 9\nevaluate_every = 2\npatience = 9\nthreads = 1\n'
        f'[heads.noun]\ntask = "classify"\ntrain = ["{texts}"]\nvalidation = ["{texts}"]\nbatch_size = 2\n'
    )
    command = ["finetune", str(recipe), "--out"]
    main([*command, str(tmp_path / "whole")])
    for number, stop in ((signal.SIGTERM, 3), (signal.SIGINT, 6)):
        interrupted(loop, number, stop, [*command, str(tmp_path / "parts")], capsys)
    main([*command, str(tmp_path / "parts")])
    for name in ("model.safetensors", "heads.json", "best/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ("out/checkpoints/step-00000120", "interrupted; the same command continues from step 120"),
        ("out/checkpoints", "interrupted before the first checkpoint; the same command starts again"),
        ("out.partial/progress.jsonl", "the same command continues after the documents that are on disk"),
        ("other", "nothing was written, and the same command starts again"),
        ("out/manifest.json", "out is complete"),
        ("out/bundle.json", "out is complete"),
        ("out-run/model.safetensors", "the training is finished, and the same command continues after it"),
    ],
)
def test_between_checkpoints_the_sentence_says_what_is_there(left: str, words: str, tmp_path: Path) -> None:
    (tmp_path / left).mkdir(parents=True)
    assert words in left_behind(tmp_path / "out")


def test_what_was_complete_before_is_not_called_the_result(tmp_path: Path) -> None:
    """With --replace: the old bundle is still there, and the training of the new one has begun."""
    for name in ("out/bundle.json", "out-run/checkpoints/step-00000120"):
        (tmp_path / name).mkdir(parents=True)
    assert left_behind(tmp_path / "out", complete=True) == "interrupted; the same command continues from step 120"


def test_a_command_without_checkpoints_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A vocabulary, ended by SIGTERM while it is written."""
    from models.tokenizer import Tokenizer

    source = tmp_path / "text.txt"
    source.write_text("the cat runs and the dog eats. " * 20)
    monkeypatch.setattr(Tokenizer, "write", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        main(["vocab", str(source), "--out", str(tmp_path / "out"), "--size", "100"])
    assert ended.value.code == 143 and list(tmp_path.iterdir()) == [source]
    assert "interrupted; nothing was written, and the same command starts again" in capsys.readouterr().err


def test_what_was_told_to_ignore_a_signal_ignores_it() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with handled(raise_interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        for _ in (interruption := Interruption()).watch(range(2)):
            os.kill(os.getpid(), signal.SIGTERM)
        assert not interruption.asked
    finally:
        signal.signal(signal.SIGTERM, before)


PROGRAM = """
import time
from training.run.interruption import Interruption
for step in (interruption := Interruption()).watch(range(1)):
    print("in a step", flush=True)
    time.sleep(60)
"""


def test_the_second_signal_ends_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=-1, stderr=-1, text=True) as running:
        assert running.stdout and running.stderr
        assert running.stdout.readline() == "in a step\n"
        running.send_signal(signal.SIGINT)
        assert running.stderr.readline() + running.stderr.readline() == (
            "\nstopping after this step; the same signal again stops at once, without saving\n"
        )
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == -signal.SIGINT


@pytest.mark.slow
def test_processes_of_one_run_stop_after_the_same_step(pretrained: list[str], corpus: Path, tmp_path: Path) -> None:
    """As Ctrl-C in a terminal reaches them: torchrun and both processes get it, then torchrun passes it on."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "training"]
    command = [sys.executable, *launcher, *pretrained, "--set", "steps=60", "--set", "save_every=20", "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    out = tmp_path / "parts"
    run = subprocess.Popen([*command, str(out)], cwd=ROOT, env=environment, stderr=-1, text=True, process_group=0)
    for _ in range(1200):
        if list(out.glob("checkpoints/step-????????")):
            break
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    _, told = run.communicate(timeout=100)
    newest = sorted(out.glob("checkpoints/step-????????"))[-1]
    assert told.count(f"interrupted at step {int(newest.name[5:])}; checkpoint saved") == 1
    assert told.count("\nstopping after this step\n") == 1
    both = [subprocess.Popen([*command, str(one)], cwd=ROOT, env=environment) for one in (out, tmp_path / "whole")]
    assert [one.wait() for one in both] == [0, 0]
    whole, parts = ((one / "model.safetensors").read_bytes() for one in (tmp_path / "whole", out))
    assert whole == parts
