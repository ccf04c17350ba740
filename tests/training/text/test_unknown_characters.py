"""If these fail, a corpus loses text to [UNK] without reporting how much."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.tokenizer import Tokenizer
from tests.training.corpora import FIXTURES, WORDS
from training.__main__ import main
from training.text.corpus import Counts, read_manifest
from training.text.corpus_builder import build_corpus

ROOT = Path(__file__).parents[3]


STRANGE = ["Ωmega", "Γειάσου", "crème", "日本", "naïve-Übung", "x" * 120]
"""Words that the fixture's vocabulary does not know, or not whole."""


def brute_force(tokenizer: Tokenizer, texts: list[str]) -> tuple[int, int]:
    """Characters inside [UNK], and all of them, a character after the other."""
    covered = 0
    for text in texts:
        pieces = tokenizer.encode(text)
        inside = {
            place for i, span in zip(pieces.ids, pieces.offsets, strict=True) if i == tokenizer.unk_id
            for place in range(*span)
        }  # fmt: skip
        covered += len(inside)
    return covered, sum(not character.isspace() for text in texts for character in text)


@pytest.mark.parametrize("workers", [1, 2])
def test_unknown_characters_are_those_that_a_token_hides(tmp_path: Path, workers: int, tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(5)
    words = [*WORDS * 6, *STRANGE]
    texts = [
        "\n".join(" ".join(rng.choice(words, 7)) + ("." if rng.random() < 0.5 else "") for _ in range(6))
        for _ in range(30)
    ]
    (tmp_path / "text.txt").write_text("\n\n".join(texts), encoding="utf8")
    arguments: dict[str, Any] = {"held_out": 0.2, "limit": None, "workers": workers, "nsp": False}
    counts = build_corpus([tmp_path / "text.txt"], FIXTURES, tmp_path / "corpus", **arguments)
    covered, characters = brute_force(tokenizer, texts)
    assert sum(count.unknown_characters for count in counts.values()) == covered > 0
    assert sum(count.characters for count in counts.values()) == characters
    assert counts["train"].unknown_character_share > counts["train"].unknown_share > 0


def test_long_words_that_are_lost_are_reported_as_what_they_are_of_the_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One token of 18 a sentence, and a quarter of the characters."""
    sentence = "the cat sat on the " + "δ" * 16 + " the dog ran in a red house on a big day"
    (tmp_path / "text.txt").write_text("\n\n".join(f"{sentence} {n}.\n{sentence} {n}." for n in range(10)), "utf8")
    options = ["--tokenizer", str(FIXTURES), "--workers", "1", "--held-out", "0.2"]
    main(["corpus", str(tmp_path / "text.txt"), "--out", str(tmp_path / "corpus"), *options])
    parts = read_manifest(tmp_path / "corpus")["parts"]
    assert isinstance(parts, dict)
    train = Counts(**parts["train"])
    said = f"{train.unknown_share:.2%} of the tokens and {train.unknown_character_share:.2%} of the characters unknown"
    assert said in capsys.readouterr().out
    assert train.unknown_character_share > 0.25 and train.unknown_share < 0.06
    (tmp_path / "text.txt").write_text("\n\n".join(f"{sentence} {'λ' * 21} {n}.\nA cat." for n in range(10)), "utf8")
    with pytest.raises(SystemExit):
        main(["corpus", str(tmp_path / "text.txt"), "--out", str(tmp_path / "worse"), *options])
    assert "% of the characters are unknown to the vocabulary, expected at most 30%" in capsys.readouterr().err
