"""If these fail, text is silently cut differently than by transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertForMaskedLM, BertForSequenceClassification, BertTokenizer

from models.checkpoint import read_checkpoint
from models.errors import CheckpointError
from models.tokenizer import Tokenizer
from tests.models.directories import change, entries, only_vocabulary, save


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class is 'BertJapaneseTokenizer', expected 'BertTo"),
        ({"tokenizer_class": "AlbertTokenizerFast"}, "tokenizer_class is 'AlbertTokenizerFast', .* rewrite quotes"),
        ({"tokenizer_class": "MPNetTokenizer"}, "tokenizer_class is 'MPNetTokenizer', expected .* its rows mix"),
        ({"tokenizer_class": "DebertaV2Tokenizer"}, "tokenizer_class is 'DebertaV2Tokenizer', .* is not BERT's either"),
        ({"tokenizer_class": "BertweetTokenizer"}, "tokenizer_class is 'BertweetTokenizer', .* in Python only"),
        ({"word_tokenizer_type": "mecab"}, "word_tokenizer_type is 'mecab', expected 'basic'"),
        ({"subword_tokenizer_type": "character"}, "subword_tokenizer_type is 'character', expected 'wordpiece'"),
        ({"do_word_tokenize": False}, "do_word_tokenize is False, expected True"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize is False, expected True"),
        ({"never_split": ["U.N."]}, r"never_split is \['U.N.'\], expected \[\]"),
    ],
)
@pytest.mark.parametrize("has_file", [True, False])
def test_other_tokenizers_are_refused(
    has_file: bool, changes: dict[str, object], words: str, file: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path)
    if not has_file:
        (tmp_path / "tokenizer.json").unlink()
    change(tmp_path / file, **changes)
    for read in (read_checkpoint, Tokenizer.read):
        with pytest.raises(CheckpointError, match=f"{file}: {words}"):
            read(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("token", ["<s>", {"content": "<s>", "lstrip": False}])
def test_other_special_tokens_are_refused(token: object, file: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    change(save(BertForSequenceClassification, tokenizer, tmp_path) / file, cls_token=token)
    with pytest.raises(CheckpointError, match=rf"{file}: cls_token is '<s>', expected '\[CLS\]'; rename"):
        Tokenizer.read(tmp_path)


TOKEN = {"content": "covid-19", "lstrip": False, "rstrip": False, "normalized": True, "single_word": False}


@pytest.mark.parametrize(
    "changes",
    [
        {"additional_special_tokens": ["covid-19"]},
        {"extra_special_tokens": {"virus_token": "covid-19"}},
        {"added_tokens_decoder": {"417": TOKEN | {"special": False}}},
    ],
)
def test_added_tokens_that_only_settings_have_are_refused(
    changes: dict[str, object], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path)
    change(tmp_path / "tokenizer_config.json", **changes)
    with pytest.raises(CheckpointError, match="has no id for the added token 'covid-19'.*make the two agree"):
        Tokenizer.read(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="has the added token 'covid-19' but no tokenizer.json, expected both"):
        Tokenizer.read(tmp_path)


@pytest.mark.parametrize(
    ("part", "values", "words"),
    [
        ("normalizer", {"clean_text": False}, "clean_text is False, expected True"),
        ("normalizer", {"lowercase": False}, "has do_lower_case = False, but .* says nothing, so .* takes True"),
        ("normalizer", {"strip_accents": False}, "has strip_accents = False, but .* says nothing"),
        ("normalizer", {"handle_chinese_chars": False}, "has tokenize_chinese_chars = False, but .* says nothing"),
        ("model", {"continuing_subword_prefix": "@@"}, "continuing_subword_prefix is '@@', expected '##'"),
        ("model", {"max_input_chars_per_word": 9}, "max_input_chars_per_word is 9, expected 100"),
        ("model", {"unk_token": "[PAD]"}, r"unk_token is '\[PAD\]', expected '\[UNK\]'"),
        ("post_processor", {"single": [{"Sequence": {"id": "A", "type_id": 0}}]}, "post_processor makes rows of"),
    ],
)
def test_a_file_that_transformers_would_not_follow_is_refused(
    part: str, values: dict[str, object], words: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = save(BertForSequenceClassification, tokenizer, tmp_path) / "tokenizer.json"
    (tmp_path / "tokenizer_config.json").unlink()
    parts = json.loads(path.read_text())
    parts[part] |= values
    path.write_text(json.dumps(parts))
    with pytest.raises(CheckpointError, match=words):
        Tokenizer.read(tmp_path)


CAPITALS = ["Paris", "France", "##P", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
SENTENCE = "Paris or paris, The CAT. café"


def ids(found: Any) -> list[int]:
    return list(found(SENTENCE)["input_ids"])


@pytest.mark.parametrize("settings", [None, {}, {"model_max_length": 128}])
def test_a_cased_vocabulary_alone_is_not_lowercased(
    settings: dict[str, object] | None, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokens = [*entries(tokenizer), *CAPITALS, "é", "##é"]
    save(BertForMaskedLM, tokenizer, tmp_path, vocab_size=len(tokens))
    only_vocabulary(tmp_path, tokens)
    if settings is not None:
        change(tmp_path / "tokenizer_config.json", **settings)
    found = Tokenizer.read(tmp_path)
    theirs = BertTokenizer.from_pretrained(tmp_path, do_lower_case=False)
    assert not found.lowercase
    assert (
        [found.cls_id, *found.ids(SENTENCE), found.sep_id]
        == ids(theirs)
        != ids(BertTokenizer.from_pretrained(tmp_path))
    )
    assert "is taken to be cased, since 29 of " in found.notes[0]


@pytest.mark.parametrize("odd", [[], ["[E1]", "[unused7]"]])
def test_an_uncased_vocabulary_alone_is_lowercased_as_by_transformers(
    odd: list[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokens = [*entries(tokenizer), *odd]
    only_vocabulary(save(BertForMaskedLM, tokenizer, tmp_path, vocab_size=len(tokens)), tokens)
    found = Tokenizer.read(tmp_path)
    assert [found.cls_id, *found.ids(SENTENCE), found.sep_id] == ids(AutoTokenizer.from_pretrained(tmp_path))
    assert "is taken to be uncased, since 0 of " in found.notes[0]


def test_what_settings_say_of_case_counts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokens = [*entries(tokenizer), *CAPITALS]
    only_vocabulary(save(BertForMaskedLM, tokenizer, tmp_path, vocab_size=len(tokens)), tokens)
    change(tmp_path / "tokenizer_config.json", do_lower_case=True)
    found = Tokenizer.read(tmp_path)
    assert [found.cls_id, *found.ids(SENTENCE), found.sep_id] == ids(AutoTokenizer.from_pretrained(tmp_path))
    assert not found.notes


def test_a_cased_file_without_settings_is_kept_as_its_entries_are(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokens = [*entries(tokenizer), *CAPITALS]
    only_vocabulary(save(BertForMaskedLM, tokenizer, tmp_path, vocab_size=len(tokens)), tokens)
    BertTokenizer.from_pretrained(tmp_path, do_lower_case=False).save_pretrained(tmp_path)
    expected = ids(AutoTokenizer.from_pretrained(tmp_path))
    (tmp_path / "tokenizer_config.json").unlink()
    found = Tokenizer.read(tmp_path)
    assert [found.cls_id, *found.ids(SENTENCE), found.sep_id] == expected
    assert "is taken to be cased" in found.notes[0]


def test_a_flag_that_is_none(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForMaskedLM, tokenizer, tmp_path)
    change(tmp_path / "tokenizer_config.json", do_lower_case="false")
    with pytest.raises(CheckpointError, match="do_lower_case is 'false', expected true or false"):
        Tokenizer.read(tmp_path)


@pytest.mark.parametrize("changes", [{"added_tokens_decoder": ["[E1]"]}, {"model_input_names": "input_ids"}])
def test_settings_of_another_kind(changes: dict[str, object], tokenizer: Tokenizer, tmp_path: Path) -> None:
    change(save(BertForMaskedLM, tokenizer, tmp_path) / "tokenizer_config.json", **changes)
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: \w+ is .*, expected a (dict|list); correct"):
        Tokenizer.read(tmp_path)
