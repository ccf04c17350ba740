"""If these fail, a damaged checkpoint is trusted or ends the run, or changed data or a second writer goes unnoticed."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.errors import CheckpointError
from tests.training.corpora import FIXTURES, small_corpus
from tests.training.interrupts import stopped_after_saving
from training.__main__ import tell_results
from training.errors import TrainingError
from training.finetuning.finetune_recipe import FinetuneRecipe, HeadRecipe
from training.pretraining.pretrain import pretrain
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.run.atomic_files import SUMS, alone, recover_directory, write_directory
from training.run.run_directory import Run

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("run"), documents=40, sentences=30)


def recipe(corpus: Path, heads: int = 2) -> PretrainRecipe:
    return PretrainRecipe(
        corpus=str(corpus),
        tokenizer=str(FIXTURES),
        layers=1,
        width=32,
        attention_heads=heads,
        batch_size=8,
        max_length=48,
        steps=12,
        rate=2e-3,
        save_every=4,
        evaluate_every=60,
        threads=1,
    )


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of the run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    pretrain(recipe(corpus), out)
    return (out / "model.safetensors").read_bytes()


@pytest.fixture
def stopped(corpus: Path, tmp_path: Path) -> Path:
    """A run with the checkpoints of steps 4 and 8."""
    with stopped_after_saving(at=8):
        pretrain(recipe(corpus), tmp_path / "run")
    return tmp_path / "run"


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def change_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "run.safetensors", "run.json", "tokenizer.json", SUMS])
@pytest.mark.parametrize("harm", [cut_off, change_a_bit, Path.unlink])
def test_the_newest_good_checkpoint_is_used(
    name: str, harm: object, corpus: Path, whole: bytes, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped / "checkpoints" / "step-00000008" / name
    if harm is cut_off and path.stat().st_size <= 1000:
        path.write_bytes(b"")
    else:
        harm(path)  # type: ignore[operator]
    pretrain(recipe(corpus), stopped)
    assert (stopped / "model.safetensors").read_bytes() == whole
    assert "step-00000008" in capsys.readouterr().err
    steps = [json.loads(line)["step"] for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_without_a_good_checkpoint_nothing_begins_anew_by_itself(corpus: Path, stopped: Path) -> None:
    for path in (stopped / "checkpoints").iterdir():
        (path / "run.json").unlink()
    with pytest.raises(
        TrainingError, match="no undamaged checkpoint, expected one to resume from; restore one, or remove"
    ):
        pretrain(recipe(corpus), stopped)
    assert len(list((stopped / "checkpoints").iterdir())) == 2


def test_what_is_no_checkpoint_is_left_alone(corpus: Path, whole: bytes, stopped: Path) -> None:
    backup = stopped / "checkpoints" / "step-00000099-backup"
    shutil.copytree(stopped / "checkpoints" / "step-00000004", backup)
    pretrain(recipe(corpus), stopped)
    assert (stopped / "model.safetensors").read_bytes() == whole
    assert (backup / "model.safetensors").exists()


def test_sums_are_those_that_sha256sum_reads(stopped: Path) -> None:
    checkpoint = stopped / "checkpoints" / "step-00000008"
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=checkpoint, check=True)
    noted = {line.split()[1] for line in (checkpoint / SUMS).read_text().splitlines()}
    assert noted == {path.name for path in checkpoint.iterdir()} - {SUMS}


def test_a_line_of_metrics_that_a_full_disk_cut_is_dropped(corpus: Path, whole: bytes, stopped: Path) -> None:
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    pretrain(recipe(corpus), stopped)
    assert (stopped / "model.safetensors").read_bytes() == whole
    for line in (stopped / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


def test_another_corpus_in_its_place_is_refused(tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path, documents=40, sentences=30)
    with stopped_after_saving():
        pretrain(recipe(corpus), tmp_path / "run")
    shutil.rmtree(corpus)
    small_corpus(tmp_path, documents=41, sentences=30)
    with pytest.raises(TrainingError, match=r"corpus changed since .*run was started .*restore it to resume, or pass"):
        pretrain(recipe(corpus), tmp_path / "run")


def test_data_that_was_away_for_a_start_is_still_known(corpus: Path, stopped: Path) -> None:
    for there in (corpus, corpus.with_name("away"), corpus):
        Run(stopped, recipe(corpus), inputs=[there])
    before = json.loads((stopped / "inputs.json").read_text())[str(corpus)]
    away = corpus.rename(corpus.with_name("away"))
    Run(stopped, recipe(corpus), inputs=[corpus])
    away.rename(corpus)
    Run(stopped, recipe(corpus), inputs=[corpus])
    assert before and json.loads((stopped / "inputs.json").read_text())[str(corpus)] == before


def test_a_directory_whose_replacement_was_cut_off_is_recovered(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_directory(tmp_path / text, partial(write_text, text))
    (tmp_path / "new").rename(tmp_path / "old.partial")
    recover_directory(tmp_path / "old")
    assert (tmp_path / "old" / "text").read_text() == "old"  # it is whole
    shutil.rmtree(tmp_path / "old")
    recover_directory(tmp_path / "old")
    assert (tmp_path / "old" / "text").read_text() == "new" and not (tmp_path / "old.partial").exists()


def write_text(text: str, directory: Path) -> None:
    directory.mkdir()
    (directory / "text").write_text(text)


def test_a_recipe_that_was_refused_binds_nobody(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="3 attention heads do not divide"):
        pretrain(recipe(corpus, heads=3), tmp_path)
    pretrain(recipe(corpus, heads=4), tmp_path)


def test_a_damaged_recipe_is_named(corpus: Path, stopped: Path) -> None:
    (stopped / "recipe.json").write_text('{"corp')
    with pytest.raises(TrainingError, match=r"recipe\.json is damaged .*; remove it"):
        Run(stopped, recipe(corpus))


def test_a_second_process_is_refused_while_the_first_one_writes(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from training.run.atomic_files import alone\n"
        "with alone(Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    with alone(tmp_path / "out"):
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert "is being written by another process, expected one at a time" in second.stderr
    subprocess.run(command, cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "metrics.jsonl", "recipe.json", "best/notes.md", "checkpoints/step-00000001/x"],
)
def test_what_no_run_has_written_is_not_written_over(name: str, corpus: Path, tmp_path: Path) -> None:
    """A directory of transformers with its weights in a pickle, say: no model.safetensors gives it away."""
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    with pytest.raises(TrainingError, match="exists, and no run has written it; move it, or name another --out"):
        pretrain(recipe(corpus), tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != ".lock"]
    assert files == [theirs] and theirs.read_text() == "theirs"


def test_what_stands_beside_a_run_does_not_keep_it_from_going_on(corpus: Path, whole: bytes, stopped: Path) -> None:
    (stopped / "notes.md").write_text("mine")
    (stopped / "recipe.json").unlink()  # as its error says where it is damaged
    pretrain(recipe(corpus), stopped)
    assert (stopped / "model.safetensors").read_bytes() == whole and (stopped / "notes.md").read_text() == "mine"


def test_a_run_of_another_command_is_not_gone_on_with(corpus: Path, stopped: Path) -> None:
    """Their recipes share most of their fields."""
    shared = json.loads((stopped / "recipe.json").read_text())
    values = {
        key: shared[key] for key in ("steps", "rate", "warmup", "weight_decay", "clip", "dropout", "seed", "threads")
    }
    heads = {"mine": HeadRecipe("classify", ["train.jsonl"])}
    with pytest.raises(
        TrainingError, match=r"was started with .* = .*, now it is .*; pass the same recipe to resume, or anot"
    ):
        Run(stopped, FinetuneRecipe(base="", heads=heads, corpus=str(corpus), **values))


def test_a_recipe_of_an_older_version_lacks_fields_of_its_tables(tmp_path: Path) -> None:
    heads = {"mine": HeadRecipe("classify", ["train.jsonl"])}
    newer = FinetuneRecipe(base="base", heads=heads)
    run = Run(tmp_path / "run", newer)
    run.log(1, {"loss": 1.0})  # it has begun
    noted = json.loads((run.out / "recipe.json").read_text())
    del noted["heads"]["mine"]["class_weights"], noted["clip"]
    (run.out / "recipe.json").write_text(json.dumps(noted))
    Run(run.out, newer)
    (run.out / "recipe.json").write_text(json.dumps(noted))
    weighed = FinetuneRecipe(base="base", heads={"mine": HeadRecipe("classify", ["train.jsonl"], class_weights=0.5)})
    with pytest.raises(TrainingError, match="was started with heads = "):
        Run(run.out, weighed)


def test_data_that_changes_while_it_is_read_is_refused(corpus: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text("{}\n")
    run = Run(tmp_path / "run", recipe(corpus), inputs=[data, corpus])
    run.check_inputs()
    with data.open("a") as file:
        file.write("{}\n")
    with pytest.raises(
        TrainingError, match=r"train\.jsonl changed while it was read, expected an input that nothing writes"
    ):
        run.check_inputs()


# ---- before the work, and after it -----------------------------------------------------------------------------------


def test_a_disk_that_will_be_full_is_named_before_the_first_step(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(TrainingError, match=r"has 1 kB of free space, expected .* for 3 checkpoints and the finished"):
        pretrain(recipe(corpus), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("stop", ["plot_metrics", "none"])
def test_a_picture_that_cannot_be_drawn_ends_no_run(
    stop: str,
    corpus: Path,
    tmp_path: Path,
    pictures: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Run(tmp_path / "run", recipe(corpus))
    run.log_figures(10, {})  # before the first line is logged
    assert not (tmp_path / "run" / "metrics.png").exists()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if stop != "none":
        monkeypatch.setattr(f"training.run.run_directory.{stop}", fail)
    run.log_figures(20, {"mine": {"accuracy": 0.5}})
    drawn = (tmp_path / "run" / "metrics.png").exists()
    assert drawn == (stop == "none") != ("was not drawn ([Errno 28]" in capsys.readouterr().err)


def test_a_run_that_is_finished_says_where_its_results_are(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its end with what came out, and when it is started again."""
    steps = recipe(corpus).all_steps
    for again in (False, True):
        pretrain(recipe(corpus), tmp_path / "run")
        tell_results(tmp_path / "run")
        told = capsys.readouterr()
        assert told.out.startswith(f"{tmp_path}/run: {steps} steps; fill-mask accuracy ") and told.out.count("\n") == 1
        assert told.out.endswith(f"next: python -m training export {tmp_path}/run --out {tmp_path}/run-bundle\n")
        assert (
            f"{steps} steps, " in told.err and "epochs of the corpus; best accuracy of held-out" in told.err
        ) != again
