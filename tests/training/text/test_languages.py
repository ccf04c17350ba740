"""If these fail, a mistyped language code makes English rules split the sentences."""

from pathlib import Path

import pytest
import sentencex

from tests.training.corpora import FIXTURES, write_documents
from training.__main__ import main
from training.errors import DataError
from training.text.languages import RELATED, RULES, rules_of


@pytest.mark.parametrize(
    ("code", "rules"), [("de", "de"), ("DE", "de"), ("de-AT", "de"), ("pt_BR", "pt"), ("cs", "sk"), ("zh-Hant", "zh")]
)
def test_a_code_gives_the_rules_of_its_language(code: str, rules: str) -> None:
    assert rules_of(code) == rules


@pytest.mark.parametrize(
    ("code", "near"), [("german", "de"), ("englisch", "en"), ("frr", "fr"), ("ukr", "uk"), ("jp", "pt")]
)
def test_another_code_is_refused_with_the_nearest(code: str, near: str) -> None:
    with pytest.raises(DataError, match=rf"language '{code}' has no rules .*\(similar: .*\b{near}\b.*\); pass one"):
        rules_of(code)


@pytest.mark.parametrize(("code", "other"), sorted(RELATED.items()))
def test_a_related_language_is_what_the_library_takes_too(code: str, other: str) -> None:
    """By text with the abbreviations of many languages."""
    text = "Er kam z.B. am 3. Mai Il vit M. Dupont. Es el Sr. Paz. De J. Bak bl.a. Dr. Ivo tzv. Ján. И т.д. Он св. А."
    assert sentencex.segment(code, text) == sentencex.segment(other, text)
    assert other in RULES


def test_a_corpus_is_refused_before_its_text_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 6, 3)
    with pytest.raises(SystemExit):
        main(["corpus", str(source), "--tokenizer", str(FIXTURES), "--out", str(tmp_path / "out"), "--language", "xx"])
    assert "language 'xx' has no rules for splitting sentences" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]
