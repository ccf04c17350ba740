"""If these fail, a row gets another row's answer, none or two, or a broken row damages others."""

import gzip
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

from models.predictor import Predictor
from models.task import MAX_LOGITS
from models.task_registry import RouteName
from models.tokenizer import Tokenizer
from tests.service.bundles import write_bundle
from training.errors import DataError
from training.scoring import chunks as chunking
from training.scoring.chunks import chunks
from training.scoring.folder import claimed, refuse_foreign, write_note
from training.scoring.input_rows import input_rows
from training.scoring.job import Job
from training.scoring.outcome import read_outcome
from training.scoring.scorer import Scorer, missing
from training.text.examples import (
    Example,
    PairExample,
    QuestionExample,
    SpannedText,
    TaggedExample,
    TextExample,
    read_examples,
)

DATA = Path(__file__).parents[2] / "fixtures" / "data"
HEADS: dict[str, str] = {"moods": "sentiment", "pairs": "nli", "questions": "qa", "squad": "qa"}
"""By the beginning of the name of a fixture; all others are of tags."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    return write_bundle(tmp_path_factory.mktemp("scoring") / "bundle", tokenizer)


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor(bundle)


def job_of(bundle: Path, head: str, out: Path, *files: Path, **options: Any) -> Job:
    routes: dict[str, RouteName] = {"sentiment": "classify", "nli": "pair", "ner": "tag", "qa": "qa"}
    return Job(files, bundle, head, routes.get(head, "fill-mask"), out, **options)


def score(job: Job) -> list[dict[str, Any]]:
    """Score in this process; return the rows as a reader of the folder gets them."""
    scorer = Scorer(job)
    job.out.mkdir(exist_ok=True)
    for chunk in missing(job):
        scorer(chunk)
    if job.form == "jsonl":
        lines = [line for part in sorted(job.out.glob("part-*")) for line in part.read_text("utf8").splitlines()]
        return [json.loads(line) for line in lines]
    found = pyarrow.dataset.dataset(job.out).to_table().to_pylist()
    return [{**row, "answer": json.loads(row["answer"]) if row["answer"] else None} for row in found]


def written(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in records))
    return path


# ---- every format ----------------------------------------------------------------------------------------------------


def asked(example: Example) -> Any:
    """Return what a head is asked for an example."""
    if isinstance(example, PairExample):
        return {"text": example.text_a, "text_pair": example.text_b}
    if isinstance(example, QuestionExample):
        return {"question": example.question, "context": example.context}
    if isinstance(example, TaggedExample):
        return list(example.tokens)
    assert isinstance(example, TextExample | SpannedText)
    return example.text


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.iterdir()))
def test_a_file_of_any_format_is_answered_row_by_row(
    name: str, bundle: Path, predictor: Predictor, tmp_path: Path
) -> None:
    head = next((head for begin, head in HEADS.items() if name.startswith(begin)), "ner")
    job = job_of(bundle, head, tmp_path / "out", DATA / name)
    found = score(job)
    inputs = [asked(example) for example in read_examples(DATA / name, job.route)]  # type: ignore[arg-type]
    if name == "spans_label_studio.json":  # it has a task without an annotation, which no training reads
        assert found.pop()["error"] is None
    for row, one in zip(found, inputs, strict=True):
        parameters = {"is_split_into_words": True} if isinstance(one, list) else {}
        assert row["error"] is None
        assert [row["answer"]] == predictor.answer(head, [one], parameters)
    assert len({row["id"] for row in found}) == len(found)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_columns_ids_and_what_is_carried_over(form: Any, bundle: Path, predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = written(tmp_path / "a" / "rows.jsonl", {"id": 7, "text": "the cat", "n": 1.5}, {"text": "a mat", "n": None})
    second = tmp_path / "b" / "rows.csv.gz"
    second.write_bytes(gzip.compress(b'id,text,n\n,the dog,x\nq,"a\nmat",\n,saw,y\n'))
    job = job_of(bundle, "sentiment", tmp_path / "out", first, second, keep=("n",), form=form, parameters={"top_k": 1})
    found = score(job)
    assert [list(row) for row in found] == [["id", "text", "n", "answer", "error"]] * 5
    assert [row["id"] for row in found] == ["7", "a/rows.jsonl:2", "b/rows.csv.gz:2", "q", "b/rows.csv.gz:5"]
    assert [row["n"] for row in found] == ["1.5", None, "x", "", "y"]
    texts = ["the cat", "a mat", "the dog", "a\nmat", "saw"]
    assert [row["text"] for row in found] == texts
    assert [row["answer"] for row in found] == predictor.answer("sentiment", texts, {"top_k": 1})


def test_a_folder_is_one_table_for_its_readers(bundle: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", *({"text": f"the cat {n}"} for n in range(1500)))
    job = job_of(bundle, "sentiment", tmp_path / "out", file, written(tmp_path / "empty.jsonl"))
    with claimed(job, Predictor(bundle).bundle):
        score(job)
    table = pyarrow.dataset.dataset(job.out).to_table()
    assert table.num_rows == 1500 and len(list(job.out.glob("part-*"))) > 2
    assert table.schema.types == [pa.string()] * 4
    assert table["text"].to_pylist() == [f"the cat {n}" for n in range(1500)]


# ---- broken rows -----------------------------------------------------------------------------------------------------

HUGE = "cat " * 300_000
BROKEN: dict[str, tuple[str, str, list[str | None]]] = {
    "rows.jsonl": (
        "classify",
        '{"text": "fine"}\n{"text": \n[1]\n{"txt": "a"}\n{"text": 3}\n{"text": ""}\n{"text": "\\u0000"}\n\n'
        '{"text": "good"}\n',
        [None, "not JSON", "object", "text", "text", "visible text", "visible text", None],
    ),
    "rows.csv": ("classify", "text,label\nfine,x\na,b,c\n,x\ngood,\n", [None, "3 cells", "visible text", None]),
    "rows.json": (
        "classify",
        '[{"text": "fine"}, 3, {"text": null}, {"text": "good"}]',
        [None, "object", "text", None],
    ),
    "pairs.tsv": ("pair", "text_a\ttext_b\na\tb\na\nc\t\nd\te\n", [None, "1 cell (", "visible text", None]),
    "rows.conll": ("tag", "the O\ncat O\n\n\x00 O\n\nmat O\n", [None, "", None]),
    "questions.jsonl": (
        "qa",
        '{"question": "who", "context": "the cat"}\n{"question": "who"}\n{"question": "", "context": "a"}\n',
        [None, "context", "visible text"],
    ),
    "masks.txt": ("fill-mask", "the [MASK] sat\nno mask\na [MASK]\n", [None, "MASK", None]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_row_is_an_error_in_its_place(name: str, bundle: Path, tmp_path: Path) -> None:
    route, text, expected = BROKEN[name]
    head = {"classify": "sentiment", "pair": "nli", "tag": "ner", "qa": "qa", "fill-mask": "fill-mask"}[route]
    file = tmp_path / name
    file.write_text(text)
    found = score(job_of(bundle, head, tmp_path / "out", file))
    assert len(found) == len(expected), found
    for row, words in zip(found, expected, strict=True):
        assert (row["answer"] is None) == (row["error"] is not None)
        if words is None:
            assert row["error"] is None, row
        else:
            assert row["error"] is not None or not words, row
            assert any(word in (row["error"] or "") for word in words.split("|")), row
    assert len({row["id"] for row in found}) == len(found)


UNDECODED: dict[str, tuple[str, bytes]] = {
    "rows.jsonl": ("sentiment", b'{"text": "fine"}\n{"text": "caf\xe9"}\n{"text": "good"}\n'),
    "rows.json": ("sentiment", b'[{"text": "fine"}, {"text": "caf\xe9"}, {"text": "good"}]'),
    "rows.csv": ("sentiment", b'text,label\nfine,x\n"caf\xe9\nau lait",y\ngood,z\n'),
    "rows.txt": ("sentiment", b"fine\n\xff\ngood\n"),
    "pairs.tsv": ("nli", b"text_a\ttext_b\nfine\tx\ncaf\xe9\ty\ngood\tz\n"),
    "quoted.tsv": ("nli", b'text_a\ttext_b\nfine\tx\n"caf\xe9\t\ny"\tz\ngood\tz\n'),
    "rows.conll": ("ner", b"fine O\n\nau O\ncaf\xe9 O\nlait O\n\ngood O\n"),
    "words.conll": ("ner", b"fine\n\ncaf\xe9\nlait\n\ngood\n"),
}
"""Three rows each, the second of which is not UTF-8."""


@pytest.mark.parametrize("name", UNDECODED)
def test_a_row_that_is_not_utf8_is_an_error_in_its_place(name: str, bundle: Path, tmp_path: Path) -> None:
    head, contents = UNDECODED[name]
    file = tmp_path / name
    for ends_early in (False, True):
        file.write_bytes(contents.rstrip() if ends_early else contents)
        found = score(job_of(bundle, head, tmp_path / f"out-{ends_early}", file))
        assert [row["error"] is None for row in found] == [True, False, True], found
        assert "UTF-8" in found[1]["error"] and name in found[1]["error"]
        key = "text_a" if head == "nli" else "text"
        assert [found[0][key], found[2][key]] == ["fine", "good"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.txt", "rows.csv", "rows.conll"])
def test_a_line_that_is_too_long_costs_no_other_row(
    name: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where lines are rows it is an error of its row; elsewhere nobody knows what follows, and the file ends there."""
    monkeypatch.setattr("training.run.text_lines.MAX_LINE", 64)
    row = {"rows.jsonl": '{{"text": "{}"}}\n', "rows.txt": "{}\n", "rows.csv": "{},x\n", "rows.conll": "{} O\n\n"}[name]
    header = "text,label\n" if name == "rows.csv" else ""
    file = tmp_path / name
    file.write_text(header + "".join(row.format(text) for text in ("fine", "long " * 40, "good")))
    job = job_of(bundle, "ner" if name == "rows.conll" else "sentiment", tmp_path / "out", file)
    if row.count("\n") == 1 and not header:
        found = score(job)
        assert [one["error"] is None for one in found] == [True, False, True]
        assert "a line of more than" in found[1]["error"]
    else:
        with pytest.raises(DataError, match=f"{name}:[23]: a line of more than .* expected less; split it"):
            score(job)


def test_a_parquet_file_with_missing_and_odd_values(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.table({"text": ["fine", None, "", "good"], "id": [1, 2, 3, 4]}), file)
    found = score(job_of(bundle, "sentiment", tmp_path / "out", file))
    assert [(row["id"], row["error"] is None) for row in found] == [
        ("1", True),
        ("2", False),
        ("3", False),
        ("4", True),
    ]


def test_huge_rows_are_answered_or_refused_with_a_reason(bundle: Path, predictor: Predictor, tmp_path: Path) -> None:
    texts = written(tmp_path / "rows.jsonl", {"text": "fine"}, {"text": HUGE}, {"text": "a" * (1 << 22) + "b"})
    found = score(job_of(bundle, "sentiment", tmp_path / "texts", texts))
    assert [row["error"] is None for row in found] == [True, True, False]
    assert [found[1]["answer"]] == predictor.answer("sentiment", [HUGE])
    assert "expected at most 4,194,304" in found[2]["error"]
    masks = "[MASK] " * (MAX_LOGITS // predictor.tokenizer.vocab_size + 1)
    file = written(tmp_path / "masks.jsonl", {"text": masks}, {"text": "a [MASK]"})
    found = score(job_of(bundle, "fill-mask", tmp_path / "masks", file))
    assert [row["error"] is None for row in found] == [False, True]


@pytest.mark.parametrize(("name", "contents", "words"), [
    ("a.csv", b'text,label\nfine,x\n"never closed,y\n', "never closed"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "fine"}\n' * 2, mtime=0)[:-9], "a.jsonl.gz"),
    ("a.parquet", b"PAR1 no table PAR1", "a.parquet"),
], ids=["csv", "gzip", "parquet"])  # fmt: skip
def test_a_file_whose_rest_cannot_be_read_ends_no_other(
    name: str, contents: bytes, words: str, bundle: Path, tmp_path: Path
) -> None:
    broken = tmp_path / name
    broken.write_bytes(contents)
    other = written(tmp_path / "b.jsonl", {"text": "good"})
    job = job_of(bundle, "sentiment", tmp_path / "out", broken, other)
    job.out.mkdir()
    scorer, found = Scorer(job), missing(job)
    with pytest.raises(DataError, match=words):
        for chunk in found:
            scorer(chunk)
    assert "b.jsonl:1" in pyarrow.dataset.dataset(job.out).to_table()["id"].to_pylist()


# ---- chunks ----------------------------------------------------------------------------------------------------------


def test_rows_are_read_as_they_are_needed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first chunk comes before the end of the file is read, whatever the format."""
    monkeypatch.setattr(chunking, "MIN_ROWS", 2)
    rows = [{"text": "the cat"}] * 5000
    contents = {
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows) + "\udcff",
        "a.csv": "text\n" + "the cat\n" * 5000 + "\udcff\n",
        "a.json": json.dumps(rows)[:-1] + ", broken",
        "a.txt": "the cat\n" * 5000 + "\udcff\n",
        "a.conll": "cat O\n\n" * 5000 + "\udcff O\n",
    }
    for name, text in contents.items():
        file = tmp_path / name
        file.write_bytes(text.encode(errors="surrogateescape"))
        job = job_of(bundle, "ner" if name == "a.conll" else "sentiment", tmp_path / "out", file)
        first = next(iter(chunks(job, file)))
        assert (len(first.rows), first.size) == (2, first.size) and first.size < len(text), name


def test_chunks_are_the_same_each_time_and_hold_every_row_once(bundle: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", *({"text": "cat " * (n % 400 + 1)} for n in range(3000)))
    job = job_of(bundle, "sentiment", tmp_path / "out", file)
    found = list(chunks(job, file))
    assert found == list(chunks(job, file)) and len(found) > 5
    assert [row for chunk in found for row in chunk.rows] == list(input_rows(job, file))
    assert sum(chunk.size for chunk in found) == file.stat().st_size


def test_ids_that_repeat_are_told(bundle: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", *({"id": f"r{n % 3}", "text": "cat"} for n in range(5)), {"text": ""})
    job = job_of(bundle, "sentiment", tmp_path / "out", file)
    score(job)
    outcome = read_outcome(job)
    assert (outcome.rows, outcome.errors, outcome.repeated, outcome.repeated_ids) == (6, 1, 2, ["r0", "r1"])
    assert read_outcome(replace(job, out=tmp_path)).rows == 0


def test_a_part_that_a_running_command_adds_is_not_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part appears after each listing of the folder."""
    job = Job((tmp_path / "a.jsonl",), tmp_path, "sentiment", "classify", tmp_path / "out")
    job.out.mkdir()
    write_note(job, {})
    added = itertools.count()

    def then_added(listing: Callable[..., Iterable[Path]]) -> Callable[..., Iterator[Path]]:
        def listed(*arguments: Any) -> Iterator[Path]:
            found = list(listing(*arguments))
            (job.out / f"part-00000-{next(added):06}.parquet").touch()
            return iter(found)

        return listed

    for name in ("glob", "iterdir"):
        monkeypatch.setattr(Path, name, then_added(getattr(Path, name)))
    for _ in range(2):
        refuse_foreign(job)
    assert next(added) > 1
