"""If these fail, a SentencePiece vocabulary is read differently than by transformers, or is not refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from models.errors import CheckpointError
from models.tokenizer import Tokenizer
from tests.models import vocabularies
from tests.models.directories import change
from tests.models.test_byte_level import edit

TEXT = "Paris  is\nthe capital\tof ﬁne France, don't e\u0301 日本\u3000"
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
BLANKS: list[dict[str, Any]] = [
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
]


@pytest.fixture(params=["xlm-roberta", "camembert"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return vocabularies.save(vocabularies.CLASSES[request.param](), tmp_path, request.param)


def parts_of(directory: Path) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads((directory / "tokenizer.json").read_text("utf8"))
    return parts


def with_steps(directory: Path, *more: dict[str, Any]) -> None:
    """Write the normalizer of a converted SentencePiece model, whose pre-tokenizer divides at blanks alone."""
    table = parts_of(directory)["normalizer"]
    edit(directory, "normalizer", None)
    edit(directory, "normalizer", {"type": "Sequence", "normalizers": [table, *more]})
    edit(directory, "pre_tokenizer", None)
    edit(directory, "pre_tokenizer", METASPACE)


@pytest.mark.parametrize("name", ["", "PreTrainedTokenizerFast"])
def test_a_file_of_an_older_version_is_read_as_by_transformers(directory: Path, name: str) -> None:
    with_steps(directory, *BLANKS)
    if name:
        change(directory / "tokenizer_config.json", tokenizer_class=name)
    tokenizer = Tokenizer.read(directory)
    assert tokenizer.encode(TEXT).ids == AutoTokenizer.from_pretrained(directory)(TEXT)["input_ids"][1:-1]
    assert all(TEXT[start:end].strip() == TEXT[start:end] for start, end in tokenizer.encode(TEXT).offsets)


def test_no_settings_are_needed(directory: Path) -> None:
    (directory / "tokenizer_config.json").unlink()
    theirs = AutoTokenizer.from_pretrained(directory)
    tokenizer = Tokenizer.read(directory)
    assert tokenizer.ids_with_masks(f"<mask>, {TEXT}") == theirs(f"<mask>, {TEXT}", add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("part", "values", "words"),
    [
        ("pre_tokenizer", {"type": "BertPreTokenizer"}, "pre_tokenizer is BertPreTokenizer, expected Metaspace as in"),
        ("pre_tokenizer", METASPACE | {"prepend_scheme": "first"}, "prepend_scheme of Metaspace is 'first', expected"),
        ("pre_tokenizer", METASPACE | {"replacement": "_"}, "replacement of Metaspace is '_', expected '▁'"),
        ("pre_tokenizer", METASPACE | {"prepend_scheme": "never"}, "prepend_scheme is 'never', expected 'always' by"),
        ("normalizer", {"type": "NFKC"}, "normalizer is NFKC, expected Precompiled alone, since transformers 4 and 5"),
        ("model", {"unk_id": 1}, "unk_id is 1, expected the number of the entry <unk>"),
        ("model", {"byte_fallback": True}, "byte_fallback is True, expected False"),
    ],
)
def test_other_rules_are_refused(directory: Path, part: str, values: dict[str, Any], words: str) -> None:
    if part != "model":
        edit(directory, part, None)
    edit(directory, part, values)
    with pytest.raises(CheckpointError, match=f"tokenizer.json: {words}"):
        Tokenizer.read(directory)


def test_a_model_of_sentencepiece_needs_a_conversion(directory: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    (directory / "sentencepiece.bpe.model").write_bytes(b"")
    with pytest.raises(CheckpointError, match="has sentencepiece.bpe.model but no tokenizer.json; write it with"):
        Tokenizer.read(directory)


def test_an_added_token_whose_id_is_not_the_next_one_is_refused(directory: Path) -> None:
    parts = parts_of(directory)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    vocabulary = len(parts["model"]["vocab"])
    parts["added_tokens"].append({"id": vocabulary, "content": "[E1]"} | flags)
    (directory / "tokenizer.json").write_text(json.dumps(parts), "utf8")
    assert Tokenizer.read(directory).ids("see [E1]")[-1] == vocabulary


@pytest.mark.parametrize("cleans", [True, False])
def test_blanks_before_marks_go_where_transformers_takes_them_away(directory: Path, cleans: bool) -> None:
    change(directory / "tokenizer_config.json", clean_up_tokenization_spaces=cleans)
    tokenizer, theirs = Tokenizer.read(directory), AutoTokenizer.from_pretrained(directory)
    ids = tokenizer.ids("the capital of France , is n't it ? He 's in ' Paris ' . ")
    tokenizer.write(directory / "written")
    for found in (
        tokenizer,
        Tokenizer.read(directory / "written"),
        AutoTokenizer.from_pretrained(directory / "written"),
    ):
        assert found.decode(ids) == theirs.decode(ids)
        assert found.decode([ids[-1]]) == theirs.decode([ids[-1]])
    assert ("France," in tokenizer.decode(ids)) == cleans
