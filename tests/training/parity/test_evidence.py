"""If these fail, a head is judged by made texts although it has data, or by the data of another head."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.classification import PairInput
from models.predictor import LocalPredictor
from models.task import HeadSpec, TaskName
from models.tokenizer import Tokenizer
from training.parity.evidence import Evidence, collect, made_inputs
from training.parity.made_texts import made_texts
from training.parity.recorded_predictor import SMALL, Recorded
from training.parity.run_files import RunFiles
from training.run.atomic_files import hash_of
from training.text.examples import QuestionExample, TextExample

SPECS = {"mood": HeadSpec("classify", ["bad", "good"])}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


def texts(count: int, word: str = "text") -> list[dict[str, Any]]:
    return [{"text": f"{word} {number}", "label": "good" if number % 4 else "bad"} for number in range(count)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a run with 150 examples to train on and 120 to validate with."""
    files = {"train": "train.jsonl", "validation": "validation.jsonl"}
    write(tmp_path / "train.jsonl", texts(150))
    write(tmp_path / "validation.jsonl", texts(120, "other"))
    head = {"task": "classify", **{part: [name] for part, name in files.items()}}
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "recipe.json").write_text(json.dumps({"data": str(tmp_path), "heads": {"mood": head}}))
    hashes = {str(tmp_path / name): hash_of(tmp_path / name) for name in files.values()}
    (directory / "inputs.json").write_text(json.dumps(hashes))
    return directory


# ---- whose files ---------------------------------------------------------------------------------------------------


def test_a_head_is_measured_on_the_validation_files_of_its_run(run: Path) -> None:
    (found,) = collect(SPECS, {}, None, RunFiles.find(run))["mood"]
    assert (found.kind, found.name, len(found.examples), found.fitted) == ("validation", "validation.jsonl", 120, True)


def test_a_run_is_measured_on_its_files_as_it_read_them(run: Path, tmp_path: Path) -> None:
    """A folder with a table of other columns and a broken row, instead of JSON lines."""
    table = tmp_path / "folder" / "validation.csv"
    table.parent.mkdir()
    rows = "".join(f"{row['text']},{row['label']},note\n" for row in texts(120))
    table.write_text("what,mood,label\n" + rows + ",good,note\n", encoding="utf8")
    recipe = json.loads((run / "recipe.json").read_text())
    reading = {"columns": {"text": "what", "label": "mood"}, "skip_broken": 1}
    recipe["heads"]["mood"] |= reading | {"validation": ["folder"]}
    (run / "recipe.json").write_text(json.dumps(recipe))
    (found,) = collect(SPECS, {}, 110, RunFiles.find(run))["mood"]
    assert (found.name, found.total, len(found.examples)) == ("validation.csv", 120, 110)


def test_data_that_is_named_comes_first(run: Path, tmp_path: Path) -> None:
    named = write(tmp_path / "test.jsonl", texts(200))
    (found,) = collect(SPECS, {"mood": named}, None, RunFiles.find(run))["mood"]
    assert (found.name, found.total, found.fitted) == ("test.jsonl", 200, False)


@pytest.mark.parametrize("rest", [None, 30])
def test_training_files_help_where_validation_files_are_missing_or_small(
    rest: int | None, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "validation.jsonl"
    path.unlink()
    named = {"mood": write(tmp_path / "few.jsonl", texts(rest))} if rest else {}
    found = collect(SPECS, named, None, RunFiles.find(run))["mood"]
    assert [(one.kind, one.is_enough) for one in found] == [("validation", False)] * bool(rest) + [("training", True)]


def test_a_file_that_is_another_one_now_is_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "validation.jsonl", texts(500))
    (found,) = collect(SPECS, {}, None, RunFiles.find(run))["mood"]
    assert found.name == "train.jsonl"
    assert "validation.jsonl has changed since the run read it" in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["", "checkpoints/step-00000500", "best"])
def test_the_run_of_a_checkpoint(inside: str, run: Path) -> None:
    (run / inside).mkdir(parents=True, exist_ok=True)
    found = RunFiles.find(run / inside)
    assert found and found.directory == run.resolve()


@pytest.mark.parametrize("recipe", ["", "[]", '{"steps": 3}', '{"heads": 3}'])
def test_a_checkpoint_without_a_run_of_finetuning(recipe: str, tmp_path: Path) -> None:
    assert RunFiles.find(tmp_path) is None
    (tmp_path / "recipe.json").write_text(recipe)
    assert RunFiles.find(tmp_path) is None


def test_a_head_of_another_task_has_no_files(run: Path) -> None:
    found = RunFiles.find(run)
    assert found and found.files("mood", "tag", "train") == found.files("other", "classify", "train") == []


# ---- which examples ------------------------------------------------------------------------------------------------


def test_a_sample_has_each_source_and_label_in_proportion(tmp_path: Path) -> None:
    rows = [row | {"source": "first" if number < 300 else "last"} for number, row in enumerate(texts(400))]
    found = Evidence.read("validation", [write(tmp_path / "all.jsonl", rows)], "classify", 80)
    drawn = [one for one in found.examples if isinstance(one, TextExample)]
    counts = Counter((one.label, int(one.text.split()[1]) >= 300) for one in drawn)
    assert counts == {("bad", False): 15, ("good", False): 45, ("bad", True): 5, ("good", True): 15}
    assert (found.describe()["examples"], found.describe()["of"]) == (80, 400)


def test_a_sample_of_numbers_or_sets_is_drawn_from_all_of_them(tmp_path: Path) -> None:
    """As parts of their own, 400 different numbers would get the first places."""
    for labels in ([number + 0.5 for number in range(400)], [[f"{number % 2}", f"x{number}"] for number in range(400)]):
        rows = [row | {"label": label} for row, label in zip(texts(400), labels, strict=True)]
        found = Evidence.read("validation", [write(tmp_path / "all.jsonl", rows)], "classify", 80)
        places = [int(one.text.split()[1]) for one in found.examples if isinstance(one, TextExample)]
        assert len(places) == 80 and max(places) > 300
        if isinstance(labels[0], list):
            assert sum(place % 2 for place in places) == 40


def test_a_sample_of_several_files_has_questions_with_and_without_an_answer(tmp_path: Path) -> None:
    row = {"id": "1", "question": "who?", "context": "the cat", "source": "test"}
    some = [row | {"answers": {"text": ["cat"], "answer_start": [4]}}] * 60
    none: list[dict[str, Any]] = [row | {"answers": {"text": [], "answer_start": []}}] * 30
    files = [write(tmp_path / "some.jsonl", some), write(tmp_path / "none.jsonl", none)]
    found = Evidence.read("validation", files, "qa", 30)
    assert found.name == "some.jsonl + none.jsonl"
    assert sum(not one.answers for one in found.examples if isinstance(one, QuestionExample)) == 10


# ---- made texts ----------------------------------------------------------------------------------------------------


def test_made_texts_are_of_known_words_and_the_same_each_time(tokenizer: Tokenizer) -> None:
    made = made_texts(tokenizer, 50)
    assert made == made_texts(tokenizer, 50) != made_texts(tokenizer, 50, seed=1)
    for text in made:
        words = text.split()
        assert 3 <= len(words) <= 60
        assert [tokenizer.token(number) for number in tokenizer.ids(text)] == words


@pytest.mark.parametrize("task", ["classify", "pair", "tag", "qa", "fill-mask"])
def test_made_inputs_are_what_the_task_takes(task: TaskName, tokenizer: Tokenizer) -> None:
    inputs = made_inputs(task, tokenizer)
    assert len(inputs) >= 50
    assert all(("[MASK]" in one) == (task == "fill-mask") for one in inputs if isinstance(one, str))
    assert task != "pair" or isinstance(inputs[0], PairInput)


# ---- a predictor that remembers ------------------------------------------------------------------------------------


class Counting(LocalPredictor):
    """Answers with the number of its rows so far."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        super().__init__({"mood": HeadSpec("classify", [str(number) for number in range(width)])}, tokenizer, 64)
        self.rows = 0
        self.width = width

    def run(self, head: str, rows: Any) -> Any:
        self.rows += len(rows)
        return [np.full((1, self.width), self.rows, np.float32) for _ in rows]


@pytest.mark.parametrize("width", [2, SMALL + 1])
def test_an_input_is_run_once(width: int, tokenizer: Tokenizer) -> None:
    counting = Counting(tokenizer, width)
    recorded = Recorded(counting)
    first = {one.index: one.answer for one in recorded.predict("mood", ["the cat", "the dog", "the cat"], {"top_k": 1})}
    again = {one.index: one.answer for one in recorded.predict("mood", ["the dog", "the cat"], {"top_k": 1})}
    assert again == {0: first[1], 1: first[0]} and set(first) == {0, 1, 2}
    assert recorded.inputs("mood") == ["the cat", "the dog"] and counting.rows == 3
    assert [len(one[0]) for one in recorded.logits("mood", ["the dog", "the man"])] == [width, width]
    assert counting.rows == (4 if width <= SMALL else 5)
