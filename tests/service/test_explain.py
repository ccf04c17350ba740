"""If this breaks, an explanation reports a wrong influence of a word, or its cost is not counted."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import models
from models.occlusion import Occlusion
from models.predictor import Predictor
from models.task import MAX_LOGITS, HeadSpec
from models.tokenizer import Tokenizer
from service.logs import FIELDS
from tests.models.test_occlusion import brute, variant
from tests.service.bundles import HEADS, write_bundle
from tests.service.serving import Served, serving
from tests.service.test_bad_input import problem
from tests.service.test_routes import same

STARTER = Path(models.__file__).parent / "starter"
MORE = HEADS | {
    "tones": HeadSpec("classify", ["warm", "cold", "odd"], problem_type="multi_label_classification"),
    "stars": HeadSpec("classify", ["stars"], problem_type="regression"),
    "axes": HeadSpec("classify", ["valence", "arousal"], problem_type="regression"),
    "cross": HeadSpec("pair", ["relevant"]),
    "fussy": HeadSpec("classify", ["a", "b"], {"threshold": 0.99, "truncation": "windows"}),
}
TEXTS = [
    "The cat sat, and the cat slept.",
    "Good",
    "Film 👍🏽 cafe\u0301, naïve 👩\u200d👩\u200d👧!",
    "电影很好看。",
    "(a  dog)\tran\u3000off",
]
LONG = "the dog ran. the cat sat on the mat and slept. " * 4
PAIR = {"text": "A man plays a guitar.", "text_pair": "Someone makes 音乐."}
QUESTION = {"question": "Where does Clara live?", "context": "Clara lives in Berlin. Berlin is not where Tim lives."}
CHINESE = {"question": "电影？", "context": "电影很好看。👍🏽 cafe\u0301 noir."}
ASKED: list[tuple[str, Any, dict[str, Any]]] = [
    *(("classify/sentiment", text, {}) for text in TEXTS),
    ("classify/topic", LONG, {"max_length": 30}),
    ("classify/topic", LONG, {"max_length": 30, "truncation": "windows", "window_scores": "mean"}),
    ("classify/topic", TEXTS[0], {"function_to_apply": "none"}),
    ("classify/tones", TEXTS[0], {}),
    ("classify/stars", TEXTS[0], {}),
    ("classify/axes", TEXTS[2], {}),
    ("classify/fussy", LONG, {}),
    ("pair/nli", PAIR, {}),
    ("pair/nli", {"text": "Good", "text_pair": LONG}, {"truncation": "left", "max_length": 20}),
    ("pair/cross", PAIR, {}),
    ("qa/qa", QUESTION, {}),
    ("qa/qa", QUESTION, {"max_seq_len": 20, "doc_stride": 3}),
    ("qa/qa", CHINESE, {}),
    ("qa/qa", QUESTION, {"handle_impossible_answer": True, "no_answer_threshold": -1000.0}),
]


@pytest.fixture(scope="module")
def served(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    bundle = write_bundle(tmp_path_factory.mktemp("explain") / "tiny", tokenizer, MORE)
    with serving(bundle, lanes=1, max_items=64, max_characters=5000, max_queued_tokens=20_000) as served:
        yield served


@pytest.fixture(scope="module")
def starter() -> Iterator[Served]:
    with serving(STARTER, lanes=1) as served:
        yield served


def explain(served: Served, head: str, inputs: Any, **parameters: Any) -> Any:
    return served.answer(f"/explain/{head}", inputs, **parameters)


def check(served: Served, path: str, inputs: Any, parameters: dict[str, Any]) -> list[Any]:
    """Compare an explanation with the answers of the head's own route; return the texts without a word."""
    explained = explain(served, path.partition("/")[2], inputs, **parameters)
    is_qa = path.startswith("qa")
    every = parameters | ({} if is_qa else {"threshold": None})
    (whole,) = served.answer(f"/{path}", [inputs], **every)
    best = whole if is_qa else whole[0]
    assert explained["label"] == best["answer" if is_qa else "label"] and same(explained["score"], best["score"])
    left = [variant(inputs, word) for word in explained["words"]]
    texts = {"inputs": inputs} if isinstance(inputs, str) else inputs
    many = every | ({"top_k": 1000} if is_qa else {})
    for word, one in zip(explained["words"], left, strict=True):
        (answer,) = served.answer(f"/{path}", [one], **many)
        if is_qa:
            score = brute(inputs, best, word, one, answer)
        else:
            score = next(each["score"] for each in answer if each["label"] == best["label"])
        assert same(word["influence"], best["score"] - score), word
        assert texts[word["field"]][word["start"] : word["end"]] == word["word"]
    return left


@pytest.mark.parametrize("case", range(len(ASKED)))
def test_influences_are_those_of_leaving_each_word_out(served: Served, case: int) -> None:
    path, inputs, parameters = ASKED[case]
    left = check(served, path, inputs, parameters)
    assert bool(left) == (inputs != "Good")


@pytest.mark.parametrize(
    ("path", "inputs"),
    [
        ("classify/sentiment", "A gripping, gripping film 👍🏽!"),
        ("pair/nli", {"text": "A man sleeps.", "text_pair": "He is awake."}),
        ("qa/qa", {"question": "Where does Clara live?", "context": QUESTION["context"]}),
    ],
)
def test_the_starter_explains_as_it_answers_and_without_http_too(starter: Served, path: str, inputs: Any) -> None:
    assert check(starter, path, inputs, {})
    head = path.partition("/")[2]
    assert same(Predictor(STARTER).explain(head, inputs), explain(starter, head, inputs))


def test_words_are_reported_as_they_are_written_in_the_text(served: Served) -> None:
    words = explain(served, "nli", {"text": "Good, good", "text_pair": "电影 x"})["words"]
    found = [tuple(word[key] for key in ("field", "word", "start", "end")) for word in words]
    assert found == [
        ("text", "Good", 0, 4),
        ("text", ",", 4, 5),
        ("text", "good", 6, 10),
        ("text_pair", "电", 0, 1),
        ("text_pair", "影", 1, 2),
        ("text_pair", "x", 3, 4),
    ]


@pytest.mark.parametrize("path", ["classify/topic", "qa/qa"])
def test_all_texts_are_one_job_and_admission_counts_them_all(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    inputs: Any = TEXTS[0] if path == "classify/topic" else QUESTION
    head = path.partition("/")[2]
    left = [variant(inputs, word) for word in explain(served, head, inputs)["words"]]
    engine, jobs, kept = served.service.engine, list[int](), list[int]()
    submit, keeping = engine.submit, engine.keeping

    def submitting(*given: Any) -> Any:
        job = submit(*given)
        jobs.append(job.tokens)
        return job

    def counting(scores: int) -> Any:
        kept.append(scores)
        return keeping(scores)

    monkeypatch.setattr(engine, "submit", submitting)
    monkeypatch.setattr(engine, "keeping", counting)
    explain(served, head, inputs)
    assert len(jobs) == len(kept) == 1
    for one in [inputs, *left]:
        served.answer(f"/{path}", one)
    assert jobs[0] == sum(jobs[1:]) and kept[0] == sum(kept[1:]) and len(jobs) == len(left) + 2


def test_a_full_service_says_when_to_come_back(served: Served) -> None:
    with served.service.engine.keeping(MAX_LOGITS - 10):  # two scores of each text
        assert served.post("/classify/sentiment", TEXTS[0]).status_code == 200
        refused = served.post("/explain/sentiment", TEXTS[0])
    assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
    assert "20 more would exceed" in refused.json()["detail"]


def test_the_cost_of_an_explanation_is_bounded(served: Served) -> None:
    assert len(explain(served, "sentiment", "a " * 64)["words"]) == 64
    (error,) = problem(served.post("/explain/sentiment", "a " * 65), 422)["errors"]
    assert error["field"] == "inputs" and error["message"].startswith("has 65 words, but at most 64 can be left out")
    long = ("a " + "x" * 30 + " ") * 31  # some 1,000 tokens in windows, of each of 63 texts
    answer = problem(served.post("/explain/sentiment", long, truncation="windows"), 422)
    assert "makes more than 20000 tokens, windows included" in answer["detail"]
    assert served.post("/explain/sentiment", "x" * 5001).status_code == 422


def test_texts_are_tokenized_beside_the_event_loop(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    encode = Occlusion.encode

    def encoding(*given: Any) -> Any:
        threads.append(threading.current_thread())
        return encode(*given)

    monkeypatch.setattr(Occlusion, "encode", encoding)
    explain(served, "sentiment", "a b")
    (thread,) = threads
    assert thread in served.service.texts._threads


def test_headers_are_those_of_the_route_of_the_task(served: Served) -> None:
    own = served.post("/classify/topic", LONG, max_length=30)
    explained = served.post("/explain/topic", LONG, max_length=30)
    for name in ("X-Truncated", "X-Bundle"):
        assert explained.headers[name] == own.headers[name]
    stages = [stage.partition(";")[0] for stage in explained.headers["Server-Timing"].split(", ")]
    assert stages == ["tokenize", "queue", "encode", "decode"]


def test_it_counts_as_one_input_and_is_logged_with_its_head(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service.access")
    names = {"inputs_total": 1, "truncated_inputs_total": 1, "confidence_count": 1}
    before = {name: served.sample(name, head="topic") for name in names}
    tokens = served.sample("tokens_total", head="topic")
    texts = len(explain(served, "topic", LONG, max_length=30)["words"]) + 1
    assert {name: served.sample(name, head="topic") - before[name] for name in names} == names
    (record,) = [record for record in caplog.records if record.name == "service.access"]
    fields = getattr(record, FIELDS)
    assert served.sample("tokens_total", head="topic") - tokens == texts * 30
    assert fields["head"] == "topic" and 30 < fields["tokens"] < texts * 30  # many are equal behind the cut
    assert served.sample("requests_total", route="/explain/{head}", head="topic", status="200") >= 1


@pytest.mark.parametrize(
    ("inputs", "head"), [(TEXTS[0], "sentiment"), (PAIR, "nli"), (QUESTION, "qa"), ({"context": "a"}, "qa")]
)
def test_without_a_name_the_default_head_for_such_an_input_answers(served: Served, inputs: Any, head: str) -> None:
    found, named = served.post("/explain", inputs), served.post(f"/explain/{head}", inputs)
    assert found.status_code == named.status_code
    if found.status_code == 200:
        assert same(found.json(), named.json())
        assert served.sample("requests_total", route="/explain", head=head, status="200") >= 1
    else:
        assert found.json()["errors"] == named.json()["errors"]


def test_defaults_of_the_head_hold(served: Served) -> None:
    assert same(explain(served, "fussy", LONG), explain(served, "fussy", LONG, truncation="windows", threshold=0.1))


@pytest.mark.parametrize(
    ("path", "body", "status", "field", "says"),
    [
        ("/explain/ner", {"inputs": "a"}, 422, "head", "choose a head for /classify, /pair or /qa; these routes"),
        ("/explain/fill-mask", {"inputs": "a"}, 422, "head", "/explain/sentiment, /explain/topic, /explain/nli"),
        ("/explain/sentimant", {"inputs": "a"}, 404, "head", "did you mean sentiment?"),
        ("/explain/sentiment", {}, 422, "inputs", "missing"),
        ("/explain", {}, 422, "inputs", "missing"),
        ("/explain", {"inputs": 3}, 422, "inputs", "is the number 3"),
        ("/explain", {"inputs": "a", "heads": 1}, 422, "heads", "is unknown"),
        ("/explain/sentiment", {"inputs": ["a b", "c"]}, 422, "inputs", "is a list of 2, but one input is explained"),
        ("/explain/sentiment", {"inputs": PAIR}, 422, "inputs", "must be a text"),
        ("/explain/qa", {"inputs": "a"}, 422, "inputs", "must be an object"),
        ("/explain/sentiment", {"inputs": " "}, 422, "inputs", "no visible character"),
        ("/explain/nli", {"inputs": PAIR | {"text": " "}}, 422, "inputs.text", "no visible character"),
        ("/explain/sentiment", {"inputs": "a", "parameters": {"x": 1}}, 422, "parameters.x", "not a parameter"),
        ("/explain/sentiment", {"inputs": "a", "parameters": {"top_k": 9}}, 422, "parameters.top_k", "has 2 labels"),
        (
            "/explain/sentiment",
            {"inputs": "a b " * 99, "parameters": {"truncation": "error"}},
            422,
            "inputs",
            "has 198 tokens",
        ),
    ],
)
def test_errors_name_the_field(served: Served, path: str, body: Any, status: int, field: str, says: str) -> None:
    answer = problem(served.client.post(path, json=body), status)
    assert field in [error.get("field") for error in answer["errors"]] and says in answer["detail"], answer


def test_explanations_are_documented_with_the_heads_that_explain(served: Served) -> None:
    document = served.client.get("/openapi.json").json()
    operation = document["paths"]["/explain/{head}"]["post"]
    (named,) = [each for each in operation["parameters"] if each["in"] == "path"]
    assert named["schema"]["enum"] == [name for name, spec in MORE.items() if spec.task in ("classify", "pair", "qa")]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    promised = operation["responses"]["200"]["content"]["application/json"]["example"]
    found = served.client.post("/explain", json=example).json()
    assert found.keys() == promised.keys()
    assert [{**each, "influence": 0} for each in found["words"]] == [{**w, "influence": 0} for w in promised["words"]]
    assert {"429", "422", "404", "504"} <= operation["responses"].keys()


def test_explanations_are_neither_samples_nor_drift_nor_for_the_shadow(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny, file = write_bundle(tmp_path / "tiny", tokenizer), tmp_path / "samples.jsonl"
    shadow = write_bundle(tmp_path / "shadow", tokenizer, version="2.0.0")
    with serving(tiny, lanes=1, shadow=shadow, sample_file=file, sample_percent=100.0) as served:
        assert served.post("/explain/sentiment", TEXTS[0]).status_code == 200
        assert served.post("/explain/qa", QUESTION).status_code == 200
        assert served.service.shadow._running is None
        drifted = [
            sample.value
            for metric in served.service.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "bertheads_drift_inputs_total"
        ]
        assert drifted and not any(drifted)
        assert served.post("/classify/sentiment", "a cat").status_code == 200
    (line,) = file.read_text().splitlines()
    assert "a cat" in line


def test_heads_list_the_route_that_explains_them(served: Served) -> None:
    for head in served.client.get("/heads").json()["heads"]:
        route = f"/explain/{head['name']}"
        assert (route in head["routes"]) == (head["task"] in ("classify", "pair", "qa"))
