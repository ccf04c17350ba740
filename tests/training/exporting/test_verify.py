"""If these fail, verify accepts a bundle that differs from transformers, or rejects one that is equal."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.bundle import Bundle, read_bundle
from models.errors import InputError
from models.task import HeadSpec
from tests import families
from training.__main__ import main
from training.errors import EvaluationError
from training.exporting import transformers_answers
from training.exporting.transformers_answers import inputs_of, open_theirs
from training.exporting.verify import Comparison, heads_for, lines


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of each task, imported in fp32; the classifier in int8 too."""
    root = tmp_path_factory.mktemp("verify")
    for kind in ("classify", "pair", "tag", "qa", "fill-mask"):
        families.write("bert", kind, root / kind)
        options = ["--precision", "fp32,int8" if kind == "classify" else "fp32", "--budget", "100"]
        options += ["--task", "pair"] if kind == "pair" else []
        main(["import", str(root / kind), "--out", str(root / f"{kind}-bundle"), *options])
    return root


def run(bundle: Path, directory: Path, *options: str) -> None:
    main(["verify", str(bundle), "--against", str(directory), *options])


DATA: dict[str, list[dict[str, Any]]] = {
    "classify": [{"text": "Paris is large", "label": "good"}],
    "pair": [{"text_a": "Paris " * 70, "text_b": "London " * 90, "label": "neutral"}],
    "tag": [{"tokens": ["Angela", "Merkel"], "tags": ["B-PER", "I-PER"]}, {"text": "Berlin", "spans": []}],
    "qa": [{"id": "1", "question": "Who?", "context": "Clara " * 99, "answers": {"text": [], "answer_start": []}}],
    "fill-mask": [{"text": "the capital of France is [MASK] " + "and " * 99}, {"text": "one word"}],
}


@pytest.mark.parametrize("kind", DATA)
def test_an_imported_directory_answers_as_in_transformers(
    kind: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(root / f"{kind}-bundle", root / kind, "--limit", "30", "--agreement", "0.7")
    made = capsys.readouterr().out.splitlines()
    assert made[0].startswith(f"{kind} ({kind}): ") and made[0].endswith("texts, made up")
    (exact,) = [line.split() for line in made if line.startswith("fp32")]
    assert 0 < float(exact[1]) < 1e-5 and exact[2] == "100.0%"
    assert sum(line.startswith("int8") for line in made) == (kind == "classify")
    assert max(map(len, made[:-1])) <= 80 and "; next: bertheads-serve --bundle " in made[-1]
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in DATA[kind]))
    run(root / f"{kind}-bundle", root / kind, "--data", str(data), "--head", kind)
    count = len(DATA[kind])
    assert f"{count} texts, mine.jsonl\nequal tokens: {count} of {count}\n" in capsys.readouterr().out


def test_other_weights_are_an_error(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path(shutil.copytree(root / "classify", tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["classifier.bias"] += torch.tensor([0.001, 0.0])
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(SystemExit) as status:
        run(root / "classify-bundle", other, "--limit", "10", "--agreement", "0.7")
    printed = capsys.readouterr()
    assert status.value.code == 1
    assert printed.err.splitlines()[-1].startswith("error: ") and "(classify in fp32)" in printed.err, "int8 agrees"


def test_other_tokens_are_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path(shutil.copytree(root / "classify", tmp_path / "other"))
    parts = json.loads((other / "tokenizer.json").read_text())
    vocabulary = parts["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(parts))
    with pytest.raises(SystemExit):
        run(root / "classify-bundle", other)
    printed = capsys.readouterr()
    assert "the tokens of classify" in printed.err
    assert "first text that differs: 'a'" in printed.out and "first answer that differs: " in printed.out
    assert max(map(len, printed.out.splitlines())) <= 80


def test_labels_in_another_order_are_other_answers(root: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(root / "classify", tmp_path / "other"))
    values = json.loads((other / "config.json").read_text()) | {"id2label": {"0": "good", "1": "bad"}}
    (other / "config.json").write_text(json.dumps(values))
    with pytest.raises(SystemExit):
        run(root / "classify-bundle", other, "--limit", "10")


# ---- which head, and what cannot be compared -----------------------------------------------------------------------


def test_the_head_is_found_by_the_class_or_asked_for(root: Path) -> None:
    bundle = read_bundle(root / "classify-bundle")
    assert heads_for(bundle, root / "pair", None) == ["classify"], "a classifier may read texts or pairs"
    with pytest.raises(
        EvaluationError,
        match=r"holds BertForMaskedLM.*has classify \(classify\); name the one that .* with --head NAME",
    ):
        heads_for(bundle, root / "fill-mask", None)
    heads = bundle.manifest.heads | {"nli": bundle.manifest.heads["classify"].model_copy(update={"task": "pair"})}
    both = Bundle(bundle.directory, bundle.manifest.model_copy(update={"heads": heads}), bundle.tokenizer)
    with pytest.raises(EvaluationError, match=r"has classify \(classify\), nli \(pair\); name the one"):
        heads_for(both, root / "classify", None)
    assert heads_for(both, root / "classify", "nli") == ["nli"]
    with pytest.raises(InputError, match="there is no head 'x'"):
        heads_for(both, root / "classify", "x")


def test_weights_that_transformers_would_make_up(root: Path) -> None:
    spec = read_bundle(root / "classify-bundle").manifest.heads["classify"].spec
    with pytest.raises(EvaluationError, match=r"has no weight \S+ for a classify head"):
        open_theirs(root / "fill-mask", spec, 64)
    with pytest.raises(EvaluationError, match="cannot be read by transformers"):
        open_theirs(root / "nothing", spec, 64)


def test_without_transformers_it_says_how_to_get_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_answers, "find_spec", lambda name: None)
    with pytest.raises(EvaluationError, match="pip install 'transformers>=5'"):
        open_theirs(root / "classify", HeadSpec("classify", ["a", "b"]), 64)


def test_texts_that_are_too_long_are_cut_to_one_row_before_both_read_them(root: Path) -> None:
    for kind in ("pair", "tag", "qa", "fill-mask"):
        bundle = read_bundle(root / f"{kind}-bundle")
        theirs = open_theirs(root / kind, bundle.manifest.heads[kind].spec, 64)
        inputs = inputs_of(bundle.manifest.heads[kind].task, bundle, theirs, [])
        sizes = [len(theirs.tokenizer(*theirs.texts(one))["input_ids"]) for one in inputs]
        assert 50 <= max(sizes) <= 64


# ---- what counts as equal ------------------------------------------------------------------------------------------


def test_equal_answers_and_agreement() -> None:
    exact, coarse = Comparison("fp32"), Comparison("int8")
    for found in (exact, coarse):
        found.add("equal", [{"a": 0.7, "b": 0.3}], [{"a": 0.7, "b": 0.3}])
        found.add("a tie", [{"b": 0.50001, "a": 0.49999}], [{"a": 0.5, "b": 0.5}])
        assert found.agrees(0.9) and found.agreement == 1.0
        found.add("other", [{"b": 0.6, "a": 0.4}], [{"a": 0.6, "b": 0.4}])
        assert found.agreement == pytest.approx(2 / 3) and found.difference == pytest.approx(0.2)
        assert found.other_answer == "'other'" and found.both == "b 0.600; transformers: a 0.600"
    assert not exact.agrees(0.5) and coarse.agrees(0.5) and not coarse.agrees(0.7)


def test_a_score_alone_is_compared_by_its_size() -> None:
    exact, coarse = Comparison("fp32"), Comparison("int8")
    for found in (exact, coarse):
        found.add("close", [{"stars": 100.005}], [{"stars": 100.0}])
    assert exact.agrees(1.0) and exact.limit == pytest.approx(0.01), "relative to large scores"
    coarse.add("far", [{"stars": 4.0}], [{"stars": 5.0}])
    assert coarse.agreement == 0.5


def test_an_answer_of_other_length_is_not_equal() -> None:
    found = Comparison("fp32", texts=1, equal_tokens=1)
    found.add("a", [{"B-PER": 0.9}], [{"B-PER": 0.9}, {"I-PER": 0.8}])
    assert found.agreement == 0.5 and not found.agrees(0.9)
    assert any("nothing; transformers: I-PER 0.800" in line for line in lines("x", "tag", "made up", [found], 0.9))


def test_a_cross_encoder_without_an_activation_is_compared_by_its_raw_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its data is any labeled file: a table with columns of other names, and a broken row."""
    directory = families.write("bert", "score", tmp_path / "score")
    config = json.loads((directory / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    (directory / "config.json").write_text(json.dumps(config))
    main(["import", str(directory), "--out", str(tmp_path / "bundle"), "--precision", "fp32"])
    (tmp_path / "pairs.csv").write_text("q,d,label\nWhere?,Paris is large,relevance\nWho?,Clara,relevance\nWhy?,,no\n")
    options = ["--data", str(tmp_path / "pairs.csv"), "--columns", "text_a=q,text_b=d", "--skip-broken", "1"]
    capsys.readouterr()
    run(tmp_path / "bundle", directory, *options)
    printed = capsys.readouterr()
    assert "2 texts, pairs.csv" in printed.out and "skipped: " in printed.err
