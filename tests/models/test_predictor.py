"""If these fail, answers without the service differ from its answers, or one broken input damages others."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from models.bundle import read_bundle
from models.errors import BundleError, InferenceError, InputError
from models.predictor import Predictor
from models.row import Row
from models.task import MAX_LOGITS, Logits
from tests.service.serving import serving

STARTER = Path(models.__file__).parent / "starter"
LONG = "The film was long and the plot was thin. " * 80

REQUESTS: list[tuple[str, str, list[Any], dict[str, Any]]] = [
    ("classify", "sentiment", ["Good.", LONG, "Bad."], {}),
    ("classify", "sentiment", ["Good.", LONG], {"top_k": 1, "truncation": "windows"}),
    ("pair", "nli", [{"text": "A man sleeps.", "text_pair": "He is awake."}], {"function_to_apply": "none"}),
    ("fill-mask", "fill-mask", ["Paris is the [MASK] of France."], {"top_k": 2}),
    ("tag", "ner", ["Angela Merkel met Tim Cook in Berlin.", LONG], {"aggregation_strategy": "first"}),
    ("tag", "ner", [["Tim", "Cook", "left"], ["Berlin"]], {"is_split_into_words": True}),
    ("qa", "qa", [{"question": "Where?", "context": "She lives in Rome."}, {"question": "Who?", "context": LONG}], {}),
    ("zero-shot", "nli", ["The team won."], {"candidate_labels": ["sports", "food"]}),
]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(STARTER)


def test_answers_are_those_of_the_service(predictor: Predictor) -> None:
    with serving(STARTER) as served:
        for route, head, inputs, parameters in REQUESTS:
            expected = served.answer(f"/{route}/{head}", inputs, **parameters)
            assert predictor.answer(head, inputs, parameters, route) == expected, (route, parameters)  # type: ignore[arg-type]


def test_errors_are_those_of_the_service(predictor: Predictor) -> None:
    cases: list[tuple[str, str, list[Any], dict[str, Any]]] = [
        ("classify", "sentiment", ["fine", 3], {}),
        ("classify", "sentiment", ["fine", None], {}),
        ("classify", "sentiment", ["fine", "\0"], {}),
        ("classify", "sentiment", [LONG], {"truncation": "error"}),
        ("classify", "sentiment", ["fine"], {"topk": 1}),
        ("classify", "sentiment", ["fine"], {"top_k": 0}),
        ("pair", "nli", [{"text": "a"}], {}),
        ("pair", "nli", [{"text": "a", "text_pair": 1}], {}),
        ("pair", "nli", ["a"], {}),
        ("pair", "nli", [{"text": "a", "text_pair": "b", "label": "c"}], {}),
        ("fill-mask", "fill-mask", ["a [MASK].", "no mask"], {}),
        ("tag", "ner", [["Tim", 3], ["Berlin"]], {"is_split_into_words": True}),
        ("qa", "qa", [{"question": "", "context": "b"}], {}),
        ("zero-shot", "nli", ["a"], {"candidate_labels": []}),
        ("zero-shot", "nli", ["a"], {}),
    ]
    with serving(STARTER) as served:
        for route, head, inputs, parameters in cases:
            response = served.post(f"/{route}/{head}", inputs, **parameters)
            assert response.status_code == 422, (inputs, response.text)
            expected = [(each["field"], each["message"]) for each in response.json()["errors"]]
            with pytest.raises(InputError) as raised:
                predictor.answer(head, inputs, parameters, route)  # type: ignore[arg-type]
            assert (raised.value.field, raised.value.message) in expected


def test_one_broken_input_stops_no_other(predictor: Predictor) -> None:
    found = {one.index: one for one in predictor.predict_each("fill-mask", ["a [MASK]", "none", 3, "[MASK] b"])}
    assert sorted(found) == [0, 1, 2, 3]
    assert [found[index].error is None for index in range(4)] == [True, False, False, True]
    assert str(found[2].error) == "inputs[2]: is the number 3, but must be a text"
    assert [found[0].answer] == predictor.answer("fill-mask", ["a [MASK]"])


def test_an_answer_does_not_depend_on_its_batch(predictor: Predictor) -> None:
    texts = [" ".join(["word"] * length) for length in (1, 300, 7, 50, 2, 90)] * 5
    assert predictor.answer("sentiment", texts) == [predictor.answer("sentiment", [text])[0] for text in texts]


def test_more_scores_than_memory_should_hold_are_an_error(predictor: Predictor) -> None:
    masks = "[MASK] " * (MAX_LOGITS // predictor.tokenizer.vocab_size + 1)
    with pytest.raises(InputError, match=rf"inputs\[0\]: .*(at most {MAX_LOGITS} are computed|tokens)"):
        predictor.answer("fill-mask", [masks])


class Failing(Predictor):
    """Fails on rows that hold `token`, and computes no number for rows that hold `nan`."""

    token, nan = -1, -1

    def run(self, head: str, rows: Sequence[Row]) -> list[Logits]:
        if any(self.token in row.input_ids for row in rows):
            raise InferenceError("the model fails")
        found = super().run(head, rows)
        return [
            np.full_like(logits, np.nan) if self.nan in row.input_ids else logits
            for row, logits in zip(rows, found, strict=True)
        ]


def test_only_the_rows_at_fault_fail() -> None:
    failing = Failing(STARTER)
    [failing.token], [failing.nan] = failing.tokenizer.ids("bad"), failing.tokenizer.ids("nothing")
    texts = ["a good film", "a bad film", "nothing", "fine"]
    found = {one.index: one for one in failing.predict_each("sentiment", texts)}
    assert [type(found[index].error) for index in range(4)] == [type(None), InferenceError, InferenceError, type(None)]
    assert "inputs[2]: a score is not a number" in str(found[2].error)
    assert [found[3].answer] == Predictor(STARTER).answer("sentiment", ["fine"])
    # Of an input of several rows, the first that fails decides, and the answer comes once.
    windows = list(failing.predict_each("ner", [LONG, LONG + " bad", "bad " * 600, "fine"]))
    assert sorted((one.index, one.error is None) for one in windows) == [(0, True), (1, False), (2, False), (3, True)]


def test_what_is_asked_for_wrongly_is_named(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="there is no head 'sentimant', expected one of fill-mask, ner, nli"):
        predictor.answer("sentimant", ["a"])
    with pytest.raises(InputError, match="'zero-shot' is not a route of head 'sentiment', expected classify"):
        predictor.answer("sentiment", ["a"], route="zero-shot")
    with pytest.raises(InputError, match="is a text, expected a list of inputs"):
        predictor.answer("sentiment", "a text")
    with pytest.raises(BundleError, match="is not a directory, expected a bundle"):
        Predictor("models/none")
    assert predictor.answer("sentiment", []) == []


def test_it_imports_no_torch_and_starts_no_event_loop() -> None:
    code = "import sys, models.predictor; print(*{'torch', 'asyncio', 'fastapi', 'uvicorn'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_a_bundle_that_was_read_is_taken_as_it_is() -> None:
    bundle = read_bundle(STARTER)
    assert Predictor(bundle).bundle is bundle
