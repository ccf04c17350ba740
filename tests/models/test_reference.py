"""If these fail, a service compares its traffic with impossible figures, or refuses an older bundle."""

import json
from pathlib import Path
from typing import Any

import pytest

from models.errors import BundleError
from models.manifest import HeadEntry, parse_manifest
from models.reference import MAX_EDGES, MAX_LABELS, OTHER, Numbers, Reference, label_names
from models.task import HeadSpec

STARTER = Path(__file__).parents[2] / "models" / "starter"
TOKENS = {"edges": [8.0, 16.0], "shares": [0.5, 0.25, 0.25]}
GOOD: dict[str, Any] = {
    "inputs": 200,
    "label": {"bad": 0.5, "good": 0.5},
    "confidence": {"edges": [0.9], "shares": [0.25, 0.75]},
    "tokens": TOKENS,
    "truncated": {"no": 0.995, "yes": 0.005},
    "unknown": {"edges": [0.0, 0.05, 0.2], "shares": [0.9, 0.05, 0.05, 0.0]},
}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "negative": ({"truncated": {"no": 1.5, "yes": -0.5}}, "reference.truncated.no is 1.5: Input should be less than"),
    "sum": ({"label": {"bad": 0.5, "good": 0.4}}, "the shares of label add up to 0.9, expected 1"),
    "sum of numbers": ({"tokens": TOKENS | {"shares": [0.5, 0.5, 0.5]}}, "the shares of tokens add up to 1.5"),
    "stranger": ({"label": {"bad": 0.5, "fine": 0.5}}, "label has the bin 'fine', expected some of bad, good, other"),
    "missing": ({"label": {"bad": 1.0}}, "label has no bin 'good', expected one, or one named \"other\""),
    "no labels": ({"label": {}}, "reference.label"),
    "too many labels": ({"label": {str(n): 0.0 for n in range(MAX_LABELS + 3)}}, "at most 22 items"),
    "too many edges": ({"tokens": {"edges": list(range(99)), "shares": [0.01] * 100}}, f"at most {MAX_EDGES} items"),
    "no edge": ({"tokens": {"edges": [], "shares": [1.0]}}, "reference.tokens.edges"),
    "few shares": ({"tokens": TOKENS | {"shares": [0.5, 0.5]}}, "2 shares for 2 edges, expected one more than edges"),
    "descending": ({"tokens": TOKENS | {"edges": [16.0, 8.0]}}, "edges are [16.0, 8.0], expected ascending numbers"),
    "equal": ({"tokens": TOKENS | {"edges": [1.0, 1.0 + 1e-15]}}, "expected numbers that differ within 12 digits"),
    "text": ({"tokens": TOKENS | {"edges": ["8", "16"]}}, "reference.tokens.edges.0 is '8'"),
    "cut or not": ({"truncated": {"no": 1.0}}, 'truncated has the bins no, expected "no" and "yes"'),
    "nothing measured": ({"inputs": 0}, "reference.inputs is 0"),
    "unknown figure": ({"language": {"en": 1.0}}, "reference.language"),
    "number of a class": (
        {"label": None, "number": TOKENS},
        "number is given, expected none for a classify head that is not a regression",
    ),
    "both": ({"number": TOKENS}, "label and number are both given, expected one of them"),
}


def entry(reference: Any, **values: Any) -> dict[str, Any]:
    head = {"task": "classify", "file": "heads/mood.onnx", "labels": ["bad", "good"]}
    return head | values | ({} if reference is None else {"reference": reference})


def manifest(head: dict[str, Any]) -> bytes:
    files = {name: "0" * 64 for name in ("e.onnx", head["file"], "tokenizer.json", "parity.json")}
    sizes = {"max_length": 64, "hidden_size": 32, "layers": 2, "vocab_size": 99, "lowercase": True}
    values = {
        "format": "bertheads-bundle/1",
        "name": "tiny",
        "version": "1",
        "encoder": {"files": {"fp32": "e.onnx"}, **sizes},
        "heads": {"mood": head},
        "sha256": files,
        "provenance": {},
    }
    return json.dumps(values).encode()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_figure_that_cannot_be_is_refused_by_a_sentence(fault: str) -> None:
    change, sentence = FAULTS[fault]
    with pytest.raises(BundleError) as raised:
        parse_manifest(manifest(entry(GOOD | change)), Path("bundle.json"))
    assert sentence in str(raised.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_share_that_is_no_number_is_refused(number: str) -> None:
    contents = manifest(entry(GOOD)).replace(b"0.995", number.encode())
    with pytest.raises(BundleError):
        parse_manifest(contents, Path("bundle.json"))


def test_a_head_without_labels_has_no_figure_of_them() -> None:
    head = entry(GOOD, task="qa", labels=[])
    with pytest.raises(BundleError, match="label is given, expected none for a qa head that does not choose a label"):
        parse_manifest(manifest(head), Path("bundle.json"))


def test_what_was_not_measured_is_not_written() -> None:
    """A service that is older than the field refuses what it does not know."""
    assert "reference" not in HeadEntry.model_validate(entry(None)).model_dump()
    whole = HeadEntry.model_validate(entry(GOOD))
    assert HeadEntry.model_validate_json(whole.model_dump_json()) == whole and whole.reference


def test_bins_are_named_as_intervals() -> None:
    numbers = Numbers(edges=[0.0, 0.05, 12.0], shares=[0.25] * 4)
    assert numbers.names == ["<=0", "(0, 0.05]", "(0.05, 12]", ">12"]
    assert Numbers(edges=[8.0], shares=[0.5, 0.5]).by_name == {"<=8": 0.5, ">8": 0.5}


def test_series_are_bounded() -> None:
    many = {f"label {number}": 1 / MAX_LABELS for number in range(MAX_LABELS)}
    reference = Reference.model_validate(GOOD | {"label": many | {OTHER: 0.0}})
    assert max(len(shares) for shares in reference.shares.values()) <= MAX_LABELS + 2


@pytest.mark.parametrize(
    ("head", "names"),
    [
        (HeadSpec("classify", ["a", "b"]), ["a", "b"]),
        (HeadSpec("classify", ["a", "b"], {"threshold": 0.9}), ["a", "b", "none"]),
        (HeadSpec("classify", ["a", "none"], {"threshold": 0.9}), ["a", "none"]),
        (HeadSpec("classify", ["a", "b"], problem_type="multi_label_classification"), ["a", "b", "none"]),
        (HeadSpec("classify", ["a"], problem_type="regression"), []),
        (HeadSpec("tag", ["O", "B-PER", "I-PER", "B-LOC"]), ["PER", "LOC", "none"]),
        (HeadSpec("tag", ["NOUN", "VERB"]), ["NOUN", "VERB", "none"]),
        (HeadSpec("qa", []), []),
        (HeadSpec("qa", [], {"handle_impossible_answer": True}), ["answered", "no answer"]),
        (HeadSpec("fill-mask", []), []),
    ],
)
def test_what_a_head_may_answer(head: HeadSpec, names: list[str]) -> None:
    assert label_names(head) == names


def test_the_starter_has_figures_of_the_heads_that_have_validation_data() -> None:
    heads = parse_manifest((STARTER / "bundle.json").read_bytes(), STARTER / "bundle.json").heads
    found = {name: head.reference.inputs for name, head in heads.items() if head.reference}
    assert found.keys() == heads.keys() - {"nsp"}
    assert found["sentiment"] == 6735 and min(found.values()) > 300
