"""If these fail, a text gets a label that no head gave, or the label of another text, or uncertain labels are kept."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from models.bundle import read_bundle
from models.classification import PairInput
from models.predictor import Predictor
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.service.bundles import write_bundle
from training.__main__ import main
from training.errors import EvaluationError
from training.evaluation.evaluate import evaluate
from training.evaluation.labeling import label, read_inputs
from training.evaluation.metrics import headline
from training.text.examples import PairExample, TaggedExample, TextExample, read_examples

SPECS = {
    "mood": HeadSpec("classify", ["bad", "good"]),
    "nli": HeadSpec("pair", ["no", "yes"]),
    "ner": HeadSpec("tag", ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]),
    "qa": HeadSpec("qa", []),
}
TEXTS = ["the cat sat . " * n for n in (9, 1, 5)] + ["Jo-Ann Smith left the U.N. , she said", "a dog ran"]
INPUTS: dict[str, list[dict[str, str]]] = {
    "mood": [{"text": text} for text in TEXTS],
    "nli": [{"text_a": text, "text_b": "a dog"} for text in TEXTS],
    "ner": [{"text": text} for text in TEXTS],
}


@pytest.fixture(scope="module")
def bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    return write_bundle(out, tokenizer, SPECS, precisions=("fp32",), max_length=128)


def write(path: Path, records: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
    return path


def run(bundle: Path, data: Path, out: Path, head: str, *options: str) -> list[Any]:
    main(["label", str(bundle), "--head", head, "--data", str(data), "--out", str(out), *options])
    return list(read_examples(out, SPECS[head].task))


def test_inputs_come_in_slices_and_invisible_ones_not_at_all(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "in.jsonl", [{"text": "The cat sat.\n\u200b\nThe dog ran. A man."}, {"text": "The end."}])
    options = ("--sure", "0", "--sentences", "en")
    whole = run(bundle, data, tmp_path / "whole.jsonl", "mood", *options)
    monkeypatch.setattr("training.evaluation.labeling.AT_A_TIME", 3)
    assert run(bundle, data, tmp_path / "sliced.jsonl", "mood", *options) == whole
    assert [one.text for one in whole] == ["The cat sat.", "The dog ran.", "A man.", "The end."]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "sliced.jsonl", "whole.jsonl"]


@pytest.mark.parametrize("head", INPUTS)
def test_a_head_agrees_with_every_label_it_gave(bundle: Path, tmp_path: Path, head: str) -> None:
    """What is written is read as training data, in the order of the inputs, and scores 100 %."""
    data = write(tmp_path / "in.jsonl", INPUTS[head])
    examples = run(bundle, data, tmp_path / "out.jsonl", head, "--sure", "0")
    assert [text_of(example) for example in examples] == [text.replace(" ", "") for text in TEXTS]
    scores = evaluate(Predictor(read_bundle(bundle)), head, [tmp_path / "out.jsonl"])
    assert scores[headline(scores)] == 1.0 and scores["examples"] == len(TEXTS)


def text_of(example: TextExample | PairExample | TaggedExample) -> str:
    if isinstance(example, TaggedExample):
        return "".join(example.tokens)
    return (example.text if isinstance(example, TextExample) else example.text_a).replace(" ", "")


@pytest.mark.parametrize("head", INPUTS)
def test_only_those_it_is_sure_of_are_kept(bundle: Path, tmp_path: Path, head: str) -> None:
    predictor = Predictor(read_bundle(bundle))
    inputs = [PairInput(text=text, text_pair="a dog") if head == "nli" else text for text in TEXTS]
    sure = [one.sure for one in label(predictor, head, inputs)]
    threshold = sorted(sure)[2]
    data = write(tmp_path / "in.jsonl", INPUTS[head])
    kept = run(bundle, data, tmp_path / "out.jsonl", head, "--sure", repr(threshold))
    wanted = [text.replace(" ", "") for text, one in zip(TEXTS, sure, strict=True) if one >= threshold]
    assert [text_of(example) for example in kept] == wanted and 0 < len(kept) < len(TEXTS)


def test_a_tag_is_as_sure_as_its_least_sure_word(bundle: Path) -> None:
    predictor = Predictor(read_bundle(bundle))
    every = {"aggregation_strategy": "none", "ignore_labels": []}
    for one, given in zip(label(predictor, "ner", TEXTS), TEXTS, strict=True):
        [answer] = [prediction.answer for prediction in predictor.predict("ner", [given], every)]
        assert one.sure == pytest.approx(min(unit["score"] for unit in answer), abs=1e-6)
        assert one.record["tags"] == [unit["entity"] for unit in answer]


def test_documents_are_cut_into_sentences(bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "in.txt"
    data.write_text("The cat sat. Dr. Smith saw it.\nA dog ran.\n\nThe end.\n", encoding="utf8")
    examples = run(bundle, data, tmp_path / "out.jsonl", "mood", "--sure", "0", "--sentences", "en")
    assert [example.text for example in examples] == ["The cat sat.", "Dr. Smith saw it.", "A dog ran.", "The end."]
    few = run(bundle, data, tmp_path / "few.jsonl", "mood", "--sure", "0", "--sentences", "en", "--limit", "2")
    assert few == examples[:2]


@pytest.mark.parametrize("head", ["mood", "nli"])
def test_rows_of_a_table_are_labeled(bundle: Path, tmp_path: Path, head: str) -> None:
    keys = list(INPUTS[head][0])
    table, names = tmp_path / "in.csv", [f"my {key}" for key in keys]
    with table.open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows([["id", *names], *([0, *row.values()] for row in INPUTS[head])])
    columns = ",".join(f"{key}={name}" for key, name in zip(keys, names, strict=True))
    found = run(bundle, table, tmp_path / "out.jsonl", head, "--sure", "0", "--columns", columns)
    same = write(tmp_path / "in.jsonl", INPUTS[head])
    assert found == run(bundle, same, tmp_path / "same.jsonl", head, "--sure", "0")


def test_a_folder_is_labeled_without_its_broken_rows(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.jsonl", [{"body of": text} for text in TEXTS] + [{"body of": ""}, {"no": "text"}])
    (tmp_path / "in" / "notes.md").write_text("nothing")
    options = ["--sure", "0", "--column", "body of", "--skip-broken", "1"]
    found = run(bundle, tmp_path / "in", tmp_path / "out.jsonl", "mood", *options)
    assert [one.text for one in found] == TEXTS
    told = capsys.readouterr().err
    assert "skipped notes.md" in told and f"skipped: {tmp_path / 'in' / 'a.jsonl'}:7: there is no column" in told
    assert "a.jsonl: empty texts that are left out: 1" in told


def test_several_label_together(bundle: Path, tmp_path: Path) -> None:
    """Averaged with itself a head says the same; the second source is really opened."""
    data = write(tmp_path / "in.jsonl", INPUTS["mood"])
    alone = run(bundle, data, tmp_path / "alone.jsonl", "mood", "--sure", "0")
    out, options = tmp_path / "two.jsonl", ["--head", "mood", "--data", str(data), "--sure", "0"]
    main(["label", str(bundle), str(bundle), "--out", str(out), *options])
    assert read_examples(out, "classify") == alone
    with pytest.raises(SystemExit):
        main(["label", str(bundle), str(tmp_path), "--out", str(tmp_path / "none.jsonl"), *options])


@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
def test_what_people_labeled_is_never_written_over(
    link: str | None, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the data itself, nor under another name, nor a file of other data."""
    data = write(tmp_path / "gold.jsonl", INPUTS["mood"])
    out = data if link is None else tmp_path / "other.jsonl"
    if link:
        getattr(out, link)(data)
    before = data.read_bytes()
    for place in (out, write(tmp_path / "older.jsonl", INPUTS["nli"])):
        kept = place.read_bytes()
        with pytest.raises(SystemExit):
            main(["label", str(bundle), "--head", "mood", "--data", str(data), "--out", str(place), "--sure", "0"])
        assert f"{place} exists; remove it, or name another place with --out" in capsys.readouterr().err
        assert place.read_bytes() == kept
    assert data.read_bytes() == before


def test_two_commands_do_not_write_one_file(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write(tmp_path / "in.jsonl", INPUTS["mood"]), tmp_path / "out.jsonl"
    theirs = write(tmp_path / "out.jsonl.partial", INPUTS["nli"])
    with pytest.raises(SystemExit):
        main(["label", str(bundle), "--head", "mood", "--data", str(data), "--out", str(out)])
    assert "out.jsonl.partial exists, because another command is writing" in capsys.readouterr().err
    assert theirs.exists() and not out.exists()


def test_texts_that_grow_while_they_are_read_are_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write(tmp_path / "in.jsonl", INPUTS["mood"]), tmp_path / "out.jsonl"

    def growing(*arguments: Any) -> Any:
        yield from read_inputs(*arguments)
        write(data, INPUTS["mood"] * 2)

    monkeypatch.setattr("training.evaluation.labeling.read_inputs", growing)
    with pytest.raises(SystemExit):
        main(["label", str(bundle), "--head", "mood", "--data", str(data), "--out", str(out), "--sure", "0"])
    assert "in.jsonl changed while it was read" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_what_cannot_be_labeled_is_an_error(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EvaluationError, match="head 'qa' is of qa, expected one of classify, pair, tag; name another"):
        label(Predictor(read_bundle(bundle)), "qa", [])
    data, out = write(tmp_path / "in.jsonl", INPUTS["mood"]), tmp_path / "out.jsonl"
    for head, options, words in (
        ("mood", ["--sure", "1"], "none of 5 inputs has labels of score 1.0 or more; lower --sure"),
        ("mood", ["--sure", "1.1"], "'1.1' is not a score from 0 to 1"),
        ("nli", [], 'in.jsonl:1: key "text_a" is missing among text'),
        ("nli", ["--sentences", "en"], "--sentences is en, but pairs are not split; leave the option out"),
        ("moods", [], "there is no head 'moods', expected one of mood, ner, nli, qa"),
    ):
        with pytest.raises(SystemExit):
            run(bundle, data, out, head, *options)
        assert words in capsys.readouterr().err and not out.exists()


def test_the_next_command_can_read_what_was_written(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON lines under the name of another format would be refused by `head`, after all the work."""
    data = write(tmp_path / "in.jsonl", INPUTS["mood"])
    for name in ("out.csv", "out.jsonl.gz", "out"):
        with pytest.raises(SystemExit):
            run(bundle, data, tmp_path / name, "mood", "--sure", "0")
        assert "does not end in .jsonl" in capsys.readouterr().err and not (tmp_path / name).exists()
    assert len(run(bundle, data, tmp_path / "new" / "out.jsonl", "mood", "--sure", "0")) == len(TEXTS)
