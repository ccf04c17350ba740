"""If these fail, a bundle has a card that Hugging Face cannot read, or that hides how good a head is."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from models.bundle import Bundle, read_bundle
from models.checkpoint import Head, write_checkpoint
from models.task import HeadSpec, Trained
from models.tokenizer import Tokenizer
from tests.models import bundles
from training.__main__ import main
from training.errors import ExportError
from training.evaluation.report import read_report
from training.exporting.card_report import table
from training.exporting.export import ExportOptions, export
from training.exporting.front_matter import identifier, split_card
from training.exporting.model_card import GENERATED, kept_of, model_card, said_in, text_of
from training.exporting.remeasure import ParityOptions, remeasure
from training.parity.run_files import RunFiles
from training.run.atomic_files import hash_of
from training.run.hugging_face import read_any
from training.run.provenance import write_provenance
from training.run.run_directory import fingerprint

LABELS = [f"label|{number}" for number in range(7)]
SAID = "---\ntags:\n- films\nlicense: cc-by-4.0\n---\n# Mine\n\n## Limits\n\nOnly films.\n"


@pytest.fixture(scope="module")
def run(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of finetuning on a base whose card states a license."""
    root = tmp_path_factory.mktemp("runs")
    (root / "base").mkdir()
    (root / "base" / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    for name, count in (("train", 140), ("validation", 105)):
        rows = [{"text": ["cat", "dog sees the man"][n % 2], "label": LABELS[n % 7]} for n in range(count)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = HeadSpec("classify", LABELS, {"truncation": "windows"}, trained=Trained(max_length=48))
    checkpoint = bundles.checkpoint(tokenizer, {"mood": spec, "nsp": bundles.HEADS["nsp"]})
    checkpoint.heads["mood"] = Head(spec, checkpoint.heads["mood"].module, {"training_examples": 140.0})
    write_checkpoint(checkpoint, root / "run")
    head = {"task": "classify", "train": ["train.jsonl"], "validation": ["validation.jsonl"], "license": "CC0"}
    recipe = {"base": str(root / "base"), "data": str(root), "heads": {"mood": head}, "seed": 0}
    (root / "run" / "recipe.json").write_text(json.dumps(recipe))
    hashes = {str(root / file): fingerprint(root / file) for file in ("train.jsonl", "validation.jsonl")}
    write_provenance(root / "run", recipe, hashes)
    return root / "run"


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("made")
    (directory / "card.md").write_text(SAID, encoding="utf8")
    options = ExportOptions(
        "films", run=RunFiles.find(run), budget=bundles.ANY_LOSS, card=directory / "card.md", notes={"language": "en"}
    )
    return export(read_any(run), directory / "films", options)


def card_of(bundle: Bundle) -> str:
    return (bundle.directory / "README.md").read_text(encoding="utf8")


def test_hugging_face_reads_the_front_matter(bundle: Bundle) -> None:
    data: Any = ModelCard(card_of(bundle)).data
    assert (data.library_name, data.pipeline_tag, data.language) == ("bertheads", "text-classification", "en")
    assert (data.license, data.tags, data.base_model) == ("cc-by-4.0", ["films"], "base")
    assert data.model_name == "films" and data.eval_results
    results = {(one.task_name, one.metric_name): one.metric_value for one in data.eval_results}
    metrics = bundle.manifest.heads["mood"].metrics
    assert results["mood", "accuracy"] == pytest.approx(metrics["accuracy"], abs=1e-4)
    assert results["mood", "macro f1"] == pytest.approx(metrics["macro_f1"], abs=1e-4)


def test_the_card_says_what_the_heads_are_worth_and_where_they_come_from(bundle: Bundle, run: Path) -> None:
    card = card_of(bundle)
    report = read_report(bundle.directory / "reports" / "mood")
    assert report and report.scores["accuracy"] == bundle.manifest.heads["mood"].metrics["accuracy"]
    assert "<details><summary>7 classes; the worst is " in card
    for one in report.classes:
        assert f"| {one.label.replace('|', chr(92) + '|')} | {100 * one.precision:.1f} |" in card
    train, validation = (hash_of(run.parent / f"{name}.jsonl")[:16] for name in ("train", "validation"))
    assert f"| mood | training | train.jsonl | `{train}…` | CC0 | 140 |" in card
    assert f"| mood | validation | validation.jsonl | `{validation}…` | CC0 | 105 |" in card
    for expected in (
        "`base`. Its license: mit.", "- Language: en.", "rows of at most 48 tokens; longer texts are read in windows",
        "Not measured on labeled data here: `nsp`", "![mood: share of right answers by score](reports/mood/rel",
        "The recipe of the run", "| `threshold` | answers kept | right |", "| expected | found instead | count |",
    ):  # fmt: skip
        assert expected in card, expected
    assert bundle.manifest.heads["mood"].metrics["training_examples"] == 140


def test_reports_are_files_of_the_bundle_without_texts_of_the_data(bundle: Bundle) -> None:
    found = {name for name in bundle.manifest.sha256 if name.startswith("reports/")}
    assert found == {f"reports/mood/{name}" for name in ("report.json", "confusion.png", "reliability.png")}
    assert "dog sees" not in (bundle.directory / "reports" / "mood" / "report.json").read_text()
    assert read_bundle(bundle.directory).manifest == bundle.manifest


def test_measuring_again_keeps_what_a_person_said(bundle: Bundle, run: Path) -> None:
    before = card_of(bundle)
    assert text_of(before) == "# Mine\n\n## Limits\n\nOnly films."
    again = remeasure(bundle.directory, ParityOptions(run, budget=bundles.ANY_LOSS))
    assert card_of(again) == before


def test_exporting_again_keeps_what_a_person_said(bundle: Bundle, run: Path, tmp_path: Path) -> None:
    options = ["--budget=100000", "--precision=int8", "--limit=20"]
    main(["export", str(bundle.directory), "--out", str(tmp_path / "other"), "--name", "other", *options])
    card = (tmp_path / "other" / "README.md").read_text(encoding="utf8")
    assert text_of(card) == "# Mine\n\n## Limits\n\nOnly films." and card.count(GENERATED) == 1
    data: Any = ModelCard(card).data
    assert (data.license, data.tags, data.model_name) == ("cc-by-4.0", ["films"], "other")
    main(["export", str(run), "--out", str(tmp_path / "other"), "--replace", *options])
    again = (tmp_path / "other" / "README.md").read_text(encoding="utf8")
    assert text_of(again) == text_of(card) and "license: cc-by-4.0" in again and again.count(GENERATED) == 1


def test_what_is_kept_of_a_card_is_what_no_export_wrote(bundle: Bundle) -> None:
    old = "# starter 0.4.0\n\nA BERT encoder of 6 layers.\n\nMine.\n\n## Exported against PyTorch\n\n| head |\n"
    assert kept_of(old, bundle.manifest) == "Mine.\n" and text_of("# films 1.0.0\n") is None
    values, text = split_card(kept_of(card_of(bundle), bundle.manifest))
    assert values == {"license": "cc-by-4.0", "tags": ["films"]} and text == "# Mine\n\n## Limits\n\nOnly films.\n"


def test_the_text_of_a_damaged_bundle_is_kept_without_its_front_matter(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card_of(bundle), encoding="utf8")
    (tmp_path / "bundle.json").write_text("{}")
    assert said_in(tmp_path / "README.md") == "# Mine\n\n## Limits\n\nOnly films."
    assert said_in(tmp_path / "none.md") is None


def test_the_front_matter_of_a_person_names_what_the_bundle_does_not_know(bundle: Bundle) -> None:
    manifest = bundle.manifest.model_copy(update={"provenance": {}})
    figures = json.loads((bundle.directory / "parity.json").read_text(encoding="utf8"))
    said = "---\nbase_model: some/encoder\nlanguage: de\n---\nMine.\n"
    card = model_card(manifest, figures, bundle.directory, said)
    assert "\n## Base\n\n`some/encoder`.\n" in card and "- Language: de." in card
    assert "| head | for | file | SHA-256 | rows |" in card and "not stated" not in card
    without = model_card(manifest, figures, bundle.directory)
    assert "bundle.json does not name the checkpoint" in without and "The language of the data is not stated" in without


def test_front_matter_that_is_not_yaml_is_refused() -> None:
    with pytest.raises(ExportError, match="the front matter of the model card is not YAML"):
        split_card("---\nlicense: [\n---\n# Mine\n")


@pytest.mark.parametrize(
    ("license", "expected"),
    [("CC BY 4.0", "cc-by-4.0"), ("apache-2.0", "apache-2.0"), ("see LICENSE (ours)", None), (None, None), (" ", None)],
)
def test_licenses_are_identifiers(license: str | None, expected: str | None) -> None:
    assert identifier(license) == expected


def test_cells_of_a_table_stay_cells() -> None:
    assert list(table(["a", "b"], [["x|y\nz", "1"]])) == ["| a | b |", "|---|---:|", "| x\\|y z | 1 |", ""]
