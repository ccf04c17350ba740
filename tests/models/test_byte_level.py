"""If these fail, a RoBERTa vocabulary is read differently than by transformers, or an unknown kind is not refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from models.errors import CheckpointError
from models.tokenizer import Tokenizer
from tests.models import vocabularies
from tests.models.directories import change

TEXT = "Paris is the capital of France,  don't\nBerlin 日本"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return vocabularies.save(vocabularies.roberta(), tmp_path, "roberta")


def edit(directory: Path, part: str, values: dict[str, Any] | None) -> None:
    path = directory / "tokenizer.json"
    parts = json.loads(path.read_text("utf8"))
    parts[part] = None if values is None else (parts[part] or {}) | values
    path.write_text(json.dumps(parts), "utf8")


def as_in_2019(directory: Path) -> Path:
    """Leave vocab.json and merges.txt, and no settings."""
    vocabulary, merges = vocabularies.byte_pairs()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    (directory / "vocab.json").write_text(json.dumps(vocabulary), "utf8")
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), "utf8")
    return directory


def test_vocabulary_and_merges_are_enough(directory: Path) -> None:
    expected = AutoTokenizer.from_pretrained(directory)("the <mask> of " + TEXT)["input_ids"]
    found = Tokenizer.read(as_in_2019(directory))
    assert found.single_row(found.ids_with_masks("the <mask> of " + TEXT), [0]).input_ids == expected
    assert "<mask> of" in found.notes[0]
    change(directory / "tokenizer_config.json", mask_token={"content": "<mask>", "lstrip": False})
    again = Tokenizer.read(directory)
    assert len(again.ids_with_masks("the <mask>")) == len(found.ids_with_masks("the <mask>")) + 1
    assert not again.notes
    (directory / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match="has neither tokenizer.json nor merges.txt"):
        Tokenizer.read(directory)


@pytest.mark.parametrize("said", [True, False, None])
@pytest.mark.parametrize("written", [True, False])
def test_settings_say_whether_a_text_begins_with_a_blank(directory: Path, said: bool | None, written: bool) -> None:
    """As in every version of transformers, whatever tokenizer.json says."""
    edit(directory, "pre_tokenizer", {"add_prefix_space": written})
    values = json.loads((directory / "tokenizer_config.json").read_text())
    del values["add_prefix_space"]
    (directory / "tokenizer_config.json").write_text(
        json.dumps(values if said is None else values | {"add_prefix_space": said})
    )
    tokenizer, theirs = Tokenizer.read(directory), AutoTokenizer.from_pretrained(directory)
    assert tokenizer.ids(TEXT) == theirs(TEXT, add_special_tokens=False)["input_ids"]
    assert tokenizer.token(tokenizer.ids(TEXT)[0]).startswith("Ġ") == bool(said)


def test_a_generic_class_goes_by_its_file(directory: Path) -> None:
    edit(directory, "pre_tokenizer", {"add_prefix_space": True})
    change(directory / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", add_prefix_space=False)
    assert Tokenizer.read(directory).ids(TEXT) == AutoTokenizer.from_pretrained(directory)(TEXT)["input_ids"][1:-1]


@pytest.mark.parametrize(
    ("part", "values", "words"),
    [
        ("normalizer", {"type": "NFC"}, "normalizer is NFC, expected none as in RoBERTa's"),  # ModernBERT
        ("pre_tokenizer", {"use_regex": False}, "pre_tokenizer is ByteLevel without its pattern, expected ByteLevel"),
        ("pre_tokenizer", {"type": "Whitespace"}, "pre_tokenizer is Whitespace, expected ByteLevel alone"),
        ("pre_tokenizer", None, "pre_tokenizer is None, expected ByteLevel alone"),
        ("model", {"dropout": 0.1}, "dropout is 0.1.*, expected None"),
        ("model", {"end_of_word_suffix": "</w>"}, "end_of_word_suffix is '</w>', expected None"),
        ("model", {"continuing_subword_prefix": "##"}, "is not a tokenizers file"),  # the library panics at the merges
        ("model", {"ignore_merges": True}, "ignore_merges is True, expected False"),
    ],
)
@pytest.mark.parametrize("name", ["RobertaTokenizer", "PreTrainedTokenizerFast"])
def test_other_rules_are_refused(
    directory: Path, name: str, part: str, values: dict[str, Any] | None, words: str
) -> None:
    change(directory / "tokenizer_config.json", tokenizer_class=name)
    edit(directory, part, values)
    with pytest.raises(CheckpointError, match=f"tokenizer.json:? {words}"):
        Tokenizer.read(directory)


def test_rows_that_nobody_makes_are_refused(directory: Path) -> None:
    change(directory / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    edit(directory, "post_processor", None)
    with pytest.raises(CheckpointError, match="post_processor makes rows of None, expected <s> A </s> </s> B </s>"):
        Tokenizer.read(directory)


def test_a_class_of_another_kind_is_refused(directory: Path) -> None:
    change(directory / "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizerFast")
    with pytest.raises(CheckpointError, match="model is BPE, expected Unigram by the class XLMRobertaTokenizer"):
        Tokenizer.read(directory)
    change(directory / "tokenizer_config.json", tokenizer_class="BertTokenizer", **dict.fromkeys(KEYS))
    with pytest.raises(CheckpointError, match="model is BPE, expected WordPiece by the class BertTokenizer"):
        Tokenizer.read(directory)


KEYS = ("bos_token", "eos_token", "cls_token", "sep_token", "pad_token", "unk_token", "mask_token")


def test_other_special_tokens_are_refused(directory: Path) -> None:
    change(directory / "tokenizer_config.json", pad_token="[PAD]")
    with pytest.raises(CheckpointError, match=r"pad_token is '\[PAD\]', expected '<pad>'; rename the token"):
        Tokenizer.read(directory)


def test_markers_of_a_head_are_made_by_text(directory: Path) -> None:
    theirs = vocabularies.roberta()
    theirs.add_special_tokens({"additional_special_tokens": ["[E1]"]})
    vocabularies.save(theirs, directory, "roberta")
    tokenizer = Tokenizer.read(directory)
    text = "see [E1] Paris[E1]"
    assert tokenizer.ids(text) == tokenizer.encode(text).ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.token_id("[E1]") in tokenizer.ids(text)
