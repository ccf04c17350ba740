"""If this breaks, several heads in a request answer differently than alone, or the encoder runs for each."""

import logging
from typing import Any

import pytest

from models.session import Session
from service.logs import FIELDS
from tests.service.serving import Served
from tests.service.test_bad_input import problem
from tests.service.test_routes import PAIR, QUESTION, TEXT, same

TEXTS = [TEXT, "Clara lives in Berlin.", TEXT]


def ask(served: Served, inputs: Any, heads: list[str], **parameters: Any) -> Any:
    return served.client.post("/heads", json={"inputs": inputs, "heads": heads, "parameters": parameters})


@pytest.mark.parametrize("inputs", [TEXT, TEXTS])
def test_each_head_answers_as_it_does_alone(served: Served, inputs: Any) -> None:
    answer = ask(served, inputs, ["ner", "sentiment", "topic"], topic={"top_k": 1}, ner={"ignore_labels": []}).json()
    assert list(answer) == ["ner", "sentiment", "topic"]
    assert same(answer["sentiment"], served.answer("/classify/sentiment", inputs))
    assert same(answer["topic"], served.answer("/classify/topic", inputs, top_k=1))
    assert same(answer["ner"], served.answer("/tag/ner", inputs, ignore_labels=[]))


@pytest.mark.parametrize(
    ("inputs", "heads"), [(PAIR, ["nli", "nsp"]), ([PAIR, PAIR], ["nli", "nsp"]), (QUESTION, ["qa"])]
)
def test_heads_for_pairs_and_questions_take_their_own_inputs(served: Served, inputs: Any, heads: list[str]) -> None:
    tasks = {"nli": "pair", "nsp": "pair", "qa": "qa"}
    answer = ask(served, inputs, heads).json()
    assert all(same(answer[head], served.answer(f"/{tasks[head]}/{head}", inputs)) for head in heads)


def test_the_access_log_names_the_heads(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service.access")
    assert ask(served, TEXT, ["ner", "sentiment"]).status_code == 200
    (record,) = [record for record in caplog.records if record.name == "service.access"]
    assert getattr(record, FIELDS)["head"] == "ner,sentiment"


def test_the_encoder_reads_an_input_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = Session._encode

    def counting(self: Session, encoder: Any, inputs: Any, several: bool) -> Any:
        encoded.append(int(inputs["attention_mask"].sum()))
        return encode(self, encoder, inputs, several)

    monkeypatch.setattr(Session, "_encode", counting)
    one = ask(served, TEXT, ["sentiment"])
    several = ask(served, TEXT, ["sentiment", "topic", "ner"])
    assert one.status_code == several.status_code == 200
    assert len(encoded) == 2 and encoded[0] == encoded[1]


@pytest.mark.parametrize(
    ("body", "status", "field", "says"),
    [
        ({"inputs": TEXT}, 422, "heads", "is missing"),
        ({"inputs": TEXT, "heads": []}, 422, "heads", "has 0 items; send at least 1"),
        ({"inputs": TEXT, "heads": "ner"}, 422, "heads", "is a text, but must be a list"),
        ({"inputs": TEXT, "heads": [1]}, 422, "heads.0", "is the number 1, but must be a text"),
        ({"inputs": TEXT, "heads": ["nur"]}, 404, "head", "did you mean ner?"),
        ({"heads": ["ner"]}, 422, "inputs", "missing"),
        ({"inputs": TEXT, "heads": ["ner", "qa"]}, 422, "inputs", "must be an object"),
        ({"inputs": PAIR, "heads": ["ner", "nli"]}, 422, "inputs", "(head 'ner')"),
        ({"inputs": [TEXT, 3], "heads": ["ner"]}, 422, "inputs[1]", "number 3"),
        ({"inputs": [TEXT] * 9, "heads": ["sentiment", "ner"]}, 422, "inputs", "1 to 8"),
        ({"inputs": TEXT, "heads": ["ner"], "parameters": {"topic": {}}}, 422, "parameters.topic", "not a head of"),
        ({"inputs": TEXT, "heads": ["ner"], "parameters": {"ner": {"x": 1}}}, 422, "parameters.ner.x", "not a param"),
        ({"inputs": TEXT, "heads": ["ner"], "parameters": {"ner": 1}}, 422, "parameters.ner", "is 1, but"),
        ({"inputs": TEXT, "heads": ["ner"], "head": 1}, 422, "head", "did you mean heads?"),
    ],
)
def test_errors_name_the_field(served: Served, body: Any, status: int, field: str, says: str) -> None:
    answer = problem(served.client.post("/heads", json=body), status)
    assert field in [error.get("field") for error in answer["errors"]] and says in answer["detail"], answer


def test_an_input_that_one_head_refuses_is_refused(served: Served) -> None:
    answer = problem(ask(served, ["a", " "], ["sentiment", "ner"]), 422)
    assert answer["errors"][0]["field"] == "inputs[1]"


def test_the_metrics_count_each_head(served: Served) -> None:
    before = [served.sample("inputs_total", head=head) for head in ("sentiment", "ner")]
    assert ask(served, TEXTS, ["sentiment", "ner"]).status_code == 200
    assert [served.sample("inputs_total", head=head) for head in ("sentiment", "ner")] == [n + 3 for n in before]
    assert served.sample("requests_total", route="/heads", head="", status="200") >= 1
