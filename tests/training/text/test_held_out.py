"""If these fail, held-out documents are trained on, and their figures are too good."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.training.corpora import FIXTURES, write_documents
from training.__main__ import main
from training.text.corpus import Corpus, Counts
from training.text.corpus_builder import build_corpus
from training.text.corpus_writer import Writer

ROOT = Path(__file__).parents[3]


def with_repeated(path: Path, documents: int, *pairs: tuple[int, int]) -> Path:
    """Documents of which some are others again, with other blanks: (number of the copy, of the original), from 1."""
    lines = write_documents(path, documents, 5).read_text().splitlines()
    for copy, original in pairs:
        text = json.loads(lines[original - 1])["text"]
        lines[copy - 1] = json.dumps({"text": "  " + text.replace(" ", " \t ").replace(". ", ".\n\n ") + "\n"})
    path.write_text("\n".join(lines) + "\n", encoding="utf8")
    return path


def test_held_out_documents_that_were_learned_too_are_removed_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 40 documents each fourth is held out; 8 stood before in the training part, 20 comes after, 32 is held out."""
    source = with_repeated(tmp_path / "documents.jsonl", 40, (8, 3), (21, 20), (32, 28))
    plain = write_documents(tmp_path / "plain.jsonl", 40, 5)
    build = partial(build_corpus, tokenizer=FIXTURES, held_out=0.25, limit=None, workers=1)
    counts = build([source], out=tmp_path / "corpus")
    assert (counts["train"].documents, counts["validation"].documents, counts["validation"].repeated) == (30, 8, 2)
    build([plain], out=tmp_path / "plain")
    ours, theirs = (documents_of(Corpus(tmp_path / name, "validation")) for name in ("corpus", "plain"))
    expected = [theirs[number // 4 - 1] for number in range(4, 41, 4) if number not in (8, 20)]
    expected[expected.index(theirs[7])] = theirs[6]  # both are held out: nothing of them was learned
    assert ours == expected
    validation = Corpus(tmp_path / "corpus", "validation")
    assert counts["validation"].tokens == len(validation.tokens) == sum(len(ids) for ids, _ in ours)
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == sorted(
        path.name for path in (tmp_path / "plain").iterdir()
    )
    options = ["--tokenizer", str(FIXTURES), "--held-out", "0.25", "--workers", "1"]
    main(["corpus", str(source), "--out", str(tmp_path / "told"), *options])
    assert "validation: 2 more were removed, because the training part has them too" in capsys.readouterr().out


@pytest.mark.parametrize(("documents", "options", "enough"), [(40, [], False), (40, ["--held-out", "0.05"], True)])
def test_a_validation_part_that_measures_nothing_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], documents: int, options: list[str], enough: bool
) -> None:
    """The default share, a hundredth, is none of 40 documents."""
    source = write_documents(tmp_path / "documents.jsonl", documents, 5)
    command = ["corpus", str(source), "--tokenizer", str(FIXTURES), "--out", str(tmp_path / "out"), "--workers", "1"]
    main([*command, *options])
    assert ("validation: too few documents" not in capsys.readouterr().out) is enough


def documents_of(corpus: Corpus) -> list[tuple[list[int], list[int]]]:
    """Ids and lengths of sentences of each document."""
    found = []
    for first, last in zip(corpus.documents[:-1], corpus.documents[1:], strict=True):
        edges = corpus.sentences[first : last + 1]
        found.append((corpus.tokens[edges[0] : edges[-1]].tolist(), np.diff(edges).tolist()))
    return found


def test_documents_that_only_look_the_same_to_the_vocabulary_stay(tmp_path: Path) -> None:
    texts = [f"The cat sees {word}. The dog runs." for word in ("Ω", "Ψ", "Φ", "Δ")]
    (tmp_path / "text.txt").write_text("\n\n".join(texts), encoding="utf8")
    counts = build_corpus([tmp_path / "text.txt"], FIXTURES, tmp_path / "corpus", held_out=0.5, limit=None, workers=1)
    assert (counts["validation"].documents, counts["validation"].repeated) == (2, 0)


@pytest.mark.parametrize("stop", ["train", "kept"])
def test_a_corpus_interrupted_at_its_end_ends_in_the_same_bytes(
    stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While arrays are written, with held-out documents already taken out."""
    source = with_repeated(tmp_path / "documents.jsonl", 40, (8, 3), (21, 20))
    build = partial(build_corpus, [source], FIXTURES, held_out=0.25, limit=None, workers=1)
    build(out=tmp_path / "whole")
    monkeypatch.setattr("training.text.corpus_work.COMMITTED", 7)
    finish = Writer.finish

    def interrupted(self: Writer) -> Counts:
        counts = finish(self)
        if self.raw == stop:
            raise KeyboardInterrupt
        return counts

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Writer, "finish", interrupted)
        build(out=tmp_path / "parts")
    build(out=tmp_path / "parts")
    for path in (tmp_path / "whole").iterdir():
        if path.is_file():
            assert (tmp_path / "parts" / path.name).read_bytes() == path.read_bytes()
