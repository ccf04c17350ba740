"""If these fail, one command no longer makes a bundle of labeled data, or it reports something wrong."""

import json
import re
import shlex
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.bundle import read_bundle
from models.checkpoint import write_checkpoint
from models.predictor import Predictor
from models.session import Session
from models.task import Logits
from models.tokenizer import Tokenizer
from tests.models.bundles import checkpoint, make
from tests.training.interrupts import stopped_after_saving
from training.__main__ import build_parser, main
from training.errors import ExportError
from training.evaluation.evaluate import evaluate
from training.evaluation.predictors import CheckpointPredictor
from training.finetuning.finetune import finetune
from training.finetuning.finetune_recipe import FinetuneRecipe
from training.head.frozen import rows_of
from training.run.atomic_files import alone, hash_of
from training.run.recipe import read_recipe
from training.run.start_from import unpack
from training.text.examples import read_examples

ANIMALS, PLACES = ("cat", "dog", "bird", "horse"), ("city", "house", "river", "town")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose class is in two words."""
    rows = []
    for label, nouns in (("animal", ANIMALS), ("place", PLACES)):
        made = list(product(nouns, ("runs to", "sees", "is older than"), nouns))[:40]
        rows += [{"text": f"the {one} {verb} the {other}", "label": label} for one, verb, other in made]
    return write(tmp_path_factory.mktemp("data") / "train.jsonl", rows)


def head(*words: object) -> None:
    main(["head", *map(str, words)])


def head_until_interrupted(*words: object) -> None:
    namespace = build_parser("head").parse_args(["head", *map(str, words)])
    namespace.command(namespace)


@pytest.fixture(scope="module")
def base(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    write_checkpoint(checkpoint(tokenizer), directory)
    return directory


@pytest.fixture(scope="module")
def bundle_directory(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tokenizer, tmp_path_factory.mktemp("bundles") / "tiny", ("int8",)).directory


@pytest.fixture(scope="module")
def frozen(bundle_directory: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("frozen") / "mine"
    head(data, "--task", "classify", "--base", bundle_directory, "--freeze", "--out", out)
    return out


def test_a_head_is_trained_measured_exported_and_repeated(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.head.defaults.MAX_RATE", 5e-3)  # a random network has further to go than a base
    out = tmp_path / "animals"
    arguments = (data, "--task", "classify", "--base", base, "--out", out, "--epochs", "20")
    head(*arguments)
    told = capsys.readouterr()
    assert "72 training and 8 validation examples" in told.out
    assert "result: accuracy " in told.out and "(chance 0.500, a bag of words 1.000)" in told.out
    assert f"serve: bertheads-serve --bundle {out}" in told.out and "MB, with its own encoder" in told.out
    assert "steps (epoch " in told.err
    assert list(read_bundle(out).manifest.heads) == ["animals"]
    assert evaluate(Predictor(read_bundle(out)), "animals", [data])["accuracy"] > 0.9
    head(*arguments)
    assert f"{out} is finished" in capsys.readouterr().out
    recipe = read_recipe(FinetuneRecipe, tmp_path / "animals-run" / "head.toml")
    finetune(recipe, tmp_path / "again")
    first, second = (tmp_path / name / "model.safetensors" for name in ("animals-run", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_a_head_that_was_interrupted_ends_in_the_same_bytes(base: Path, data: Path, tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        arguments = (data, "--task", "classify", "--base", base, "--out", tmp_path / name, "--name", "a", "--epochs", 2)
        if name == "parts":
            with pytest.MonkeyPatch.context() as patch, stopped_after_saving():
                patch.setattr("training.head.defaults.FinetuneRecipe", partial(FinetuneRecipe, save_every=4))
                head_until_interrupted(*arguments)
        head(*arguments)
    first, second = (tmp_path / f"{name}-run" / "model.safetensors" for name in ("whole", "parts"))
    assert first.read_bytes() == second.read_bytes()


def test_a_frozen_head_keeps_the_encoder_and_answers_as_torch_computes_it(
    bundle_directory: Path, data: Path, frozen: Path
) -> None:
    base, bundle = read_bundle(bundle_directory), read_bundle(frozen)
    (file,) = bundle.manifest.encoder.files.values()
    assert bundle.manifest.sha256[file] == base.manifest.sha256[file]
    assert list(bundle.manifest.heads) == ["mine"]
    assert evaluate(Predictor(bundle), "mine", [data])["accuracy"] > 0.75
    examples = read_examples(data, "classify")[:20]
    rows = rows_of(bundle.manifest.heads["mine"].spec, base, examples)
    vectors = torch.from_numpy(Session(base).vectors(rows))
    with torch.inference_mode():
        expected = unpack(bundle).heads["mine"].module.eval()(vectors).numpy()
    found: list[Logits] = Predictor(bundle).run("mine", rows)
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-4, atol=1e-4)
    in_torch = CheckpointPredictor.of(unpack(bundle)).run("mine", rows)
    same = [left.argmax() == right.argmax() for left, right in zip(found, in_torch, strict=True)]
    assert np.mean(same) > 0.8


def test_a_frozen_head_tells_what_it_learned_from_and_where_it_errs(frozen: Path) -> None:
    card, entry = (frozen / "README.md").read_text(encoding="utf8"), read_bundle(frozen).manifest.heads["mine"]
    assert entry.metrics["training_examples"] == 72 and entry.metrics["examples"] == 8
    row = rf"\| mine \| training \| train.jsonl \| `{hash_of(frozen.with_name('mine-run') / 'data/train.jsonl')[:16]}"
    assert re.search(row + r"…` \| not stated \| 72 \|", card)
    assert "| class | precision | recall | F1 | support |" in card and "| animal | " in card
    assert (frozen / "reports" / "mine" / "confusion.png").is_file() and not list(frozen.rglob("wrong.jsonl"))
    assert (frozen.with_name("mine-run") / "reports" / "mine" / "wrong.jsonl").is_file()


def test_a_frozen_head_has_reference_figures_of_data_that_it_did_not_learn_from(
    bundle_directory: Path, data: Path, frozen: Path, tmp_path: Path
) -> None:
    assert read_bundle(frozen).manifest.heads["mine"].reference is None, "8 validation examples are too few"
    validation = write(tmp_path / "more.jsonl", [{"text": f"the cat {n}", "label": "animal"} for n in range(150)])
    arguments = ("--task", "classify", "--base", bundle_directory, "--freeze", "--out", tmp_path / "mine")
    head(data, *arguments, "--validation", validation)
    reference = read_bundle(tmp_path / "mine").manifest.heads["mine"].reference
    assert reference and reference.inputs == 150 and reference.label and sum(reference.label.values()) == 1


def test_a_frozen_head_that_is_finished_says_so(
    bundle_directory: Path, data: Path, frozen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head(data, "--task", "classify", "--base", bundle_directory, "--freeze", "--out", frozen)
    assert f"{frozen} is finished; nothing was read or trained; --replace exports it again" in capsys.readouterr().out


def test_a_frozen_head_needs_no_torch(bundle_directory: Path, data: Path, tmp_path: Path) -> None:
    words = ["head", str(data), "--task", "classify", "--base", str(bundle_directory), "--freeze"]
    program = (
        "import sys; from training.__main__ import build_parser, main; "
        f"main({[*words, '--out', str(tmp_path / 'mine')]!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_what_cannot_become_a_head_is_said_at_once(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = write(tmp_path / "single.jsonl", [{"text": f"the cat {n}", "label": "animal"} for n in range(20)])
    few = write(tmp_path / "few.jsonl", [{"text": "the cat", "label": "a"}, {"text": "the city", "label": "b"}])
    strange = write(tmp_path / "strange.jsonl", [{"text": "the sea", "label": "water"}])
    empty = write(tmp_path / "empty.jsonl", [{"text": "the cat", "label": "a"}] * 9 + [{"text": " ", "label": "b"}])
    (tmp_path / "there").mkdir()
    cases = [
        ((single,), "the data has only the label animal, expected two or more"),
        ((few,), "the data has 2 examples, expected 4 or more; add some"),
        ((data, "--validation", strange), "validation has the label 'water', which no training example has"),
        ((empty,), "empty.jsonl:10"),
        ((data, "--name", "a b"), "'a b' is not a name of a head"),
        ((data, "--out", tmp_path / "there"), "there exists already; choose another --out"),
        ((data, "--out", tmp_path / "there", "--replace"), "there is not a bundle (it has no bundle.json), so it is"),
        ((data, "--base", data), "train.jsonl is not a directory, expected a bundle, a checkpoint, or a Hugging Face"),
        ((data, "--out", data / "x"), "train.jsonl is a file, expected a folder for x"),
        ((data, "--service", "http://127.0.0.1:1", "--name", "other"), "expected ROOT/other/VERSION with --service"),
    ]
    for number, (words, expected) in enumerate(cases):
        with pytest.raises(SystemExit):
            head("--task", "classify", "--base", base, "--out", tmp_path / f"out{number}", *words)
        assert expected in capsys.readouterr().err
    assert not list(tmp_path.glob("*-run"))


def test_a_run_that_began_with_other_data_is_not_mixed(
    bundle_directory: Path, data: Path, frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "other.jsonl", [json.loads(line) for line in data.read_text().splitlines()][:60])
    with pytest.raises(SystemExit):
        head(other, "--task", "classify", "--base", bundle_directory, "--freeze", "--out", frozen, "--replace")
    assert "the run started with other examples; name another --out" in capsys.readouterr().err


def test_a_head_that_int8_spoils_is_exported_by_the_command_that_is_printed(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`head` itself has no --budget and no --precision."""

    def refuse(*_: object) -> None:
        raise ExportError("head 'mine' loses 9 points in int8; raise --budget")

    out = tmp_path / "mine"
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("training.exporting.export.check_parity", refuse)
        head(data, "--task", "classify", "--base", base, "--out", out, "--epochs", "1")
    told = capsys.readouterr().err.splitlines()[-1]
    assert "loses 9 points in int8" in told and not out.exists()
    main(shlex.split(told.rpartition("python -m training ")[2]))
    assert list(read_bundle(out).manifest.encoder.files) == ["fp32"]
    assert list(read_bundle(out).manifest.heads) == ["mine"]


def test_two_frozen_heads_are_not_written_to_one_place(
    bundle_directory: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone(tmp_path / "mine-run"), pytest.raises(SystemExit):
        head(data, "--task", "classify", "--base", bundle_directory, "--freeze", "--out", tmp_path / "mine")
    assert "mine-run is being written by another process" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
