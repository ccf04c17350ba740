"""If these fail, figures describe something else than what is served, or fewer examples than before."""

import argparse
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Bundle, read_bundle
from models.checkpoint import Checkpoint, Head, write_checkpoint
from models.errors import BertheadsError
from models.predictor import Predictor
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.models import bundles
from training.errors import ExportError
from training.exporting import export as exporting
from training.exporting import remeasure as remeasuring
from training.exporting.export import ExportOptions, export
from training.exporting.model_card import text_of
from training.exporting.remeasure import ParityOptions, remeasure
from training.parity.serving_session import SOURCES, graph_hashes, kernel_sources
from training.run.start_from import unpack

ROOT = Path(__file__).parents[3]
STARTER = ROOT / "models" / "starter"
MOOD = {"mood": HeadSpec("classify", ["bad", "good"])}


def write(path: Path, count: int) -> Path:
    words = ["cat", "dog", "man", "woman", "house", "city", "red", "big", "old", "small"]
    rows = [
        {"text": " ".join(words[number // 10**digit % 10] for digit in range(3)), "label": ["bad", "good"][number % 2]}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


@pytest.fixture
def checkpoint(tokenizer: Tokenizer) -> Checkpoint:
    return bundles.checkpoint(tokenizer, MOOD)


@pytest.fixture
def bundle(checkpoint: Checkpoint, tmp_path: Path) -> Bundle:
    card = tmp_path / "card.md"
    card.write_text("Trained on nothing.\n\n## Limits\n\nMany.\n", encoding="utf8")
    options = ExportOptions("tiny", precisions=("int8", "fp32"), budget=bundles.ANY_LOSS, card=card)
    return export(checkpoint, tmp_path / "bundle", options)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def parity(bundle: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle.directory / "parity.json").read_text(encoding="utf8"))
    return found


# ---- export --------------------------------------------------------------------------------------------------------


def exported(checkpoint: Path, out: Path, *words: str) -> Bundle:
    parser = argparse.ArgumentParser()
    exporting.add_arguments(parser)
    exporting.export_command(parser.parse_args([str(checkpoint), "--out", str(out), "--budget", "100", *words]))
    return read_bundle(out)


@pytest.fixture(scope="module", autouse=True)
def few_texts() -> None:
    """Measure on as many texts as a user's export."""


@pytest.fixture
def run(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """What a run of finetuning leaves, with validation data of 120 examples."""
    write_checkpoint(checkpoint, tmp_path / "run")
    head = {"task": "classify", "train": ["train.jsonl"], "validation": ["validation.jsonl"]}
    (tmp_path / "run" / "recipe.json").write_text(json.dumps({"data": str(tmp_path), "heads": {"mood": head}}))
    write(tmp_path / "train.jsonl", 300)
    write(tmp_path / "validation.jsonl", 120)
    return tmp_path / "run"


def test_a_run_is_measured_on_its_own_validation_data(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = exported(run, tmp_path / "made")
    head = parity(made)["precisions"]["int8"]["heads"]["mood"]
    assert (head["validation"]["examples"], head["validation"]["file"]) == (120, "validation.jsonl")
    assert head["texts"]["source"] == "validation.jsonl" and head["texts"]["texts"] == 120
    assert made.manifest.heads["mood"].metrics["examples"] == 120
    assert re.search(r"accuracy .* on 120 validation examples of validation.jsonl", made_card(made))
    assert "judge" not in capsys.readouterr().err


def made_card(bundle: Bundle) -> str:
    return (bundle.directory / "README.md").read_text(encoding="utf8")


def test_a_run_without_validation_data_is_measured_on_what_it_learned(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "validation.jsonl").unlink()
    made = exported(run, tmp_path / "made")
    head = parity(made)["precisions"]["int8"]["heads"]["mood"]
    assert "validation" not in head and head["training"]["examples"] == 300
    assert made.manifest.heads["mood"].metrics == {}
    assert "on 300 training examples of train.jsonl" in made_card(made)
    said = capsys.readouterr().err
    assert "validation.jsonl of the run does not exist" in said and "mood: there is no validation data" in said


def test_one_example_is_neither_a_judge_nor_a_figure(
    run: Path, checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its 100 % stay in parity.json, with their count."""
    before = {"examples": 120.0, "accuracy": 0.75}
    checkpoint.heads["mood"] = Head(MOOD["mood"], checkpoint.heads["mood"].module, before)
    write_checkpoint(checkpoint, run)
    made = exported(run, tmp_path / "made", "--data", f"mood={tmp_path / 'validation.jsonl'}", "--limit", "1")
    assert parity(made)["precisions"]["int8"]["heads"]["mood"]["validation"]["examples"] == 1
    assert made.manifest.heads["mood"].metrics == before
    assert "1 examples of validation.jsonl are too few, expected 100 or more" in capsys.readouterr().err
    assert "on 1 validation examples" in made_card(made)


def test_what_a_head_met_on_its_validation_data_is_stored(run: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    made = exported(run, tmp_path / "made", "--precision", "int8,fp32")
    reference = made.manifest.heads["mood"].reference
    assert reference and reference.inputs == 120
    answers = Predictor(made).predict("mood", [one["text"] for one in rows(tmp_path / "validation.jsonl")], {})
    found = Counter(one.answer[0]["label"] for one in answers)
    assert reference.label == pytest.approx({label: found[label] / 120 for label in ("bad", "good")}, abs=1e-6)
    assert "on validation inputs (mood 120)" in made_card(made)


def test_without_enough_validation_data_there_are_no_reference_figures(
    bundle: Bundle, run: Path, tmp_path: Path
) -> None:
    assert bundle.manifest.heads["mood"].reference is None, "it was measured on made texts"
    assert "validation inputs" not in made_card(bundle)
    (tmp_path / "validation.jsonl").unlink()
    assert exported(run, tmp_path / "made").manifest.heads["mood"].reference is None, "training data is none"
    few = f"mood={write(tmp_path / 'few.jsonl', 99)}"
    assert exported(run, tmp_path / "few", "--data", few).manifest.heads["mood"].reference is None


def test_a_head_on_its_base_keeps_its_reference_figures(bundle: Bundle, run: Path, tmp_path: Path) -> None:
    remeasure(bundle.directory, ParityOptions(data={"mood": write(tmp_path / "more.jsonl", 150)}, budget=100.0))
    again = unpack(read_bundle(bundle.directory))
    for name, reference in (("same", 150), ("other", None)):
        spec = replace(again.heads["mood"].spec, temperature=1.0 if reference else 2.0)
        again.heads["mood"] = Head(spec, again.heads["mood"].module)
        options = ExportOptions("tiny", base=bundle.directory, budget=bundles.ANY_LOSS)
        entry = export(again, tmp_path / name, options).manifest.heads["mood"]
        assert (entry.reference.inputs if entry.reference else None) == reference


def test_figures_on_as_many_examples_are_those_of_the_graph(run: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = {"examples": 120.0, "accuracy": 0.75}
    checkpoint.heads["mood"] = Head(MOOD["mood"], checkpoint.heads["mood"].module, before)
    write_checkpoint(checkpoint, run)
    assert exported(run, tmp_path / "made").manifest.heads["mood"].metrics["graph"] == "int8"


def test_parity_names_session_and_graphs(bundle: Bundle) -> None:
    figures = parity(bundle)
    assert figures["graphs"] == graph_hashes(bundle)
    assert figures["graphs"].items() <= bundle.manifest.sha256.items()
    assert figures["session"]["kernel_sources"] == (kernel_sources() if figures["session"]["kernels"] else None)


# ---- the same bundle again -----------------------------------------------------------------------------------------


def test_measuring_again_leaves_graphs_and_text(bundle: Bundle, tmp_path: Path) -> None:
    before, files = made_card(bundle), bundle.manifest.sha256
    options = ParityOptions(data={"mood": write(tmp_path / "data.jsonl", 200)}, budget=bundles.ANY_LOSS)
    after = remeasure(bundle.directory, options)
    changed = {name for name, digest in after.manifest.sha256.items() if files.get(name) != digest}
    report = {f"reports/mood/{name}" for name in ("report.json", "confusion.png", "reliability.png")}
    assert changed == {"parity.json", "README.md", *report}
    assert after.manifest.heads["mood"].metrics["examples"] == 200
    assert after.manifest.model_copy(update={"heads": bundle.manifest.heads, "sha256": files}) == bundle.manifest
    assert text_of(made_card(after)) == text_of(before) == "Trained on nothing.\n\n## Limits\n\nMany."
    assert "on 200 validation examples of data.jsonl" in made_card(after)
    assert (reference := after.manifest.heads["mood"].reference) and reference.inputs == 200
    fewer = ParityOptions(data={"mood": write(tmp_path / "data.jsonl", 120)}, budget=bundles.ANY_LOSS)
    again = remeasure(bundle.directory, fewer).manifest.heads["mood"]
    assert (again.metrics["examples"], again.reference and again.reference.inputs) == (200, 120)
    assert "with the weights of the bundle" in parity(after)["reference"]


def test_measuring_again_against_the_checkpoint_gives_what_the_export_gave(
    checkpoint: Checkpoint, bundle: Bundle, tmp_path: Path
) -> None:
    before = parity(bundle)
    write_checkpoint(checkpoint, tmp_path / "checkpoint")
    after = remeasure(bundle.directory, ParityOptions(tmp_path / "checkpoint", budget=bundles.ANY_LOSS))
    assert parity(after) == before


def test_a_bundle_over_the_budget_stays_as_it_was(bundle: Bundle) -> None:
    files = {path: path.read_bytes() for path in bundle.directory.rglob("*") if path.is_file()}
    with pytest.raises(ExportError, match="loses"):
        remeasure(bundle.directory, ParityOptions(budget=-1.0))
    assert files == {path: path.read_bytes() for path in bundle.directory.rglob("*") if path.is_file()}


def test_a_reference_that_is_another_checkpoint(bundle: Bundle, tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_checkpoint(bundles.checkpoint(tokenizer), tmp_path / "other")
    with pytest.raises(ExportError, match="has no classify head 'mood' with the labels of"):
        remeasure(bundle.directory, ParityOptions(tmp_path / "other"))
    with pytest.raises(ExportError, match="no head 'moods', expected one of mood"):
        remeasure(bundle.directory, ParityOptions(data={"moods": tmp_path}))


def test_the_command(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    remeasuring.add_arguments(parser)
    data = f"mood={write(tmp_path / 'data.jsonl', 150)}"
    words = [str(bundle.directory), "--data", data, "--data", data, "--limit", "120", "--budget", "100"]
    remeasuring.parity_command(parser.parse_args(words))
    validation = parity(bundle)["precisions"]["int8"]["heads"]["mood"]["validation"]
    assert (validation["examples"], validation["of"]) == (120, 300)
    assert capsys.readouterr().out.startswith(str(bundle.directory))


def test_a_directory_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BertheadsError, match="does not exist"):
        remeasure(tmp_path, ParityOptions())


# ---- the bundle that is shipped ------------------------------------------------------------------------------------


AGAIN = "graphs or kernels have changed since parity.json was measured: run python -m training parity models/starter …"


def test_the_shipped_figures_are_of_the_shipped_graphs_and_kernels() -> None:
    figures = json.loads((STARTER / "parity.json").read_text(encoding="utf8"))
    assert figures.get("graphs") == graph_hashes(read_bundle(STARTER)), AGAIN
    assert figures["session"]["kernels"], AGAIN
    assert figures["session"]["kernel_sources"] == kernel_sources(SOURCES), AGAIN


def test_the_shipped_card_has_the_shipped_figures() -> None:
    figures = json.loads((STARTER / "parity.json").read_text(encoding="utf8"))
    rows = (STARTER / "README.md").read_text(encoding="utf8").partition("## Exported against PyTorch")[2]
    for name, head in figures["precisions"]["int8"]["heads"].items():
        if found := head.get("validation"):
            expected = f"{found['metric']} {100 * found['value']:.2f} (PyTorch {100 * found['reference']:.2f}"
            assert expected in next(row for row in rows.splitlines() if row.startswith(f"| {name} |"))
