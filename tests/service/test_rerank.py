"""If this breaks, clients of Text Embeddings Inference read other scores than the cross-encoder gives."""

from collections.abc import Iterator
from typing import Any

import pytest

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.service.bundles import write_bundle
from tests.service.serving import Served, serving
from tests.service.test_routes import same

HEADS = {
    "nli": HeadSpec("pair", ["entailment", "neutral", "contradiction"]),
    "cross": HeadSpec("pair", ["relevant"]),
    "likeness": HeadSpec("pair", ["score"], problem_type="regression"),
    "fussy": HeadSpec("pair", ["relevant"], {"threshold": 0.99, "function_to_apply": "none", "truncation": "windows"}),
    "toxic": HeadSpec("classify", ["toxic"]),
}
QUERY = "Where is Berlin?"
TEXTS = ["a cat", "Berlin is in Germany.", "the dog runs", "a cat"]
LONG = "the cat sat on the mat. " * 40


@pytest.fixture(scope="module")
def served(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    bundle = write_bundle(tmp_path_factory.mktemp("rerank") / "tiny", tokenizer, HEADS)
    with serving(bundle, lanes=1, max_items=8, max_characters=5000) as served:
        yield served


def ask(served: Served, head: str = "", **keys: Any) -> Any:
    response = served.client.post(f"/rerank{head}", json={"query": QUERY, "texts": TEXTS} | keys)
    assert response.status_code == 200, response.text
    return response.json()


def refused(served: Served, head: str = "", **keys: Any) -> dict[str, str]:
    response = served.client.post(f"/rerank{head}", json=keys)
    assert response.status_code == 422, response.text
    return {each["field"]: each["message"] for each in response.json()["errors"]}


def pair_scores(served: Served, head: str, texts: list[str] = TEXTS, **parameters: Any) -> list[float]:
    pairs = [{"text": QUERY, "text_pair": text} for text in texts]
    answers = served.answer(f"/pair/{head}", pairs, threshold=None, **parameters)
    return [answer[0]["score"] for answer in answers]


def expected(scores: list[float]) -> list[dict[str, Any]]:
    ranked = [{"index": index, "score": score} for index, score in enumerate(scores)]
    return sorted(ranked, key=lambda each: (-each["score"], each["index"]))


@pytest.mark.parametrize("head", ["cross", "likeness", "fussy"])
@pytest.mark.parametrize("raw", [False, True])
def test_scores_are_those_of_the_pair_route_best_first(served: Served, head: str, raw: bool) -> None:
    function = "none" if raw else "sigmoid"
    wanted = expected(pair_scores(served, head, function_to_apply=function))
    assert same(ask(served, f"/{head}", raw_scores=raw), wanted)
    texts = [{**each, "text": TEXTS[each["index"]]} for each in wanted]
    assert same(ask(served, f"/{head}", raw_scores=raw, return_text=True), texts)


def test_the_first_head_that_ranks_answers_without_a_name(served: Served) -> None:
    assert ask(served) == ask(served, "/cross")
    assert same(ask(served), expected(pair_scores(served, "cross")))


@pytest.mark.parametrize("direction", ["right", "left"])
def test_a_long_text_is_cut_on_the_requested_side(served: Served, direction: str) -> None:
    texts = [LONG + "a dog", "a cat"]
    wanted = expected(pair_scores(served, "fussy", texts, truncation=direction, function_to_apply="sigmoid"))
    for asked in ({"truncation_direction": direction}, {"truncation_direction": direction.title(), "truncate": True}):
        assert same(ask(served, "/fussy", texts=texts, **asked), wanted)
    if direction == "right":
        assert same(ask(served, "/fussy", texts=texts, truncate=True), wanted)


def test_cut_texts_are_reported_and_windows_work_as_on_the_pair_route(served: Served) -> None:
    texts = [LONG, "a cat"]
    response = served.client.post("/rerank", json={"query": QUERY, "texts": texts})
    pairs = [{"text": QUERY, "text_pair": text} for text in texts]
    assert response.headers["X-Truncated"] == served.post("/pair/cross", pairs).headers["X-Truncated"]
    windows = expected(pair_scores(served, "fussy", texts, function_to_apply="sigmoid"))  # its default
    assert same(ask(served, "/fussy", texts=texts), windows)
    errors = refused(served, query=QUERY, texts=["a cat", LONG], truncate=False)
    assert errors.keys() == {"texts[1]"} and errors["texts[1]"].endswith("; shorten it, or set truncate to true")


def test_texts_are_one_job_and_count_as_inputs(served: Served) -> None:
    before = {name: served.sample(name, head="cross") for name in ("inputs_total", "confidence_count")}
    scheduled = served.sample("stage_seconds_count", stage="queue", head="cross")
    ask(served)
    assert served.sample("inputs_total", head="cross") == before["inputs_total"] + len(TEXTS)
    assert served.sample("confidence_count", head="cross") == before["confidence_count"] + len(TEXTS)
    assert served.sample("stage_seconds_count", stage="queue", head="cross") == scheduled + 1
    assert served.sample("requests_total", route="/rerank", head="cross", status="200") >= 1
    ask(served, raw_scores=True)
    assert served.sample("confidence_count", head="cross") == before["confidence_count"] + len(TEXTS)


@pytest.mark.parametrize(
    ("keys", "field", "words"),
    [
        ({"texts": TEXTS}, "query", "is missing; send a text"),
        ({"query": QUERY}, "texts", "is missing; send a list of texts"),
        ({"query": QUERY, "texts": []}, "texts", "has 0 items; send at least 1"),
        ({"query": QUERY, "texts": ["a"] * 9}, "texts", "has 9 items; send 1 to 8"),
        ({"query": QUERY, "texts": "a cat"}, "texts", "is a text, but must be a list of texts"),
        ({"query": QUERY, "texts": ["a", 3]}, "texts[1]", "is the number 3, but must be a text"),
        ({"query": QUERY, "texts": ["a" * 5001]}, "texts[0]", "has 5001 characters; at most 5000 are allowed"),
        ({"query": QUERY, "texts": TEXTS, "raw_score": True}, "raw_score", "is unknown; did you mean raw_scores"),
        ({"query": QUERY, "texts": TEXTS, "truncation_direction": "up"}, "truncation_direction", "is a text, but"),
        ({"query": QUERY, "texts": TEXTS, "truncate": "yes"}, "truncate", "is a text, but must be true or false"),
    ],
)
def test_a_wrong_body_is_refused_with_the_field_named(
    served: Served, keys: dict[str, Any], field: str, words: str
) -> None:
    assert refused(served, **keys)[field].startswith(words)


def test_a_head_that_cannot_rank_is_refused_with_those_that_can(served: Served, bundle: Any) -> None:
    for name, has in (("nli", "is for /pair and has 3 labels"), ("toxic", "is for /classify and has 1 label")):
        message = refused(served, f"/{name}", query=QUERY, texts=TEXTS)["head"]
        assert has in message and message.endswith("these heads rank: cross, likeness, fussy")
    unknown = served.client.post("/rerank/cros", json={"query": QUERY, "texts": TEXTS})
    assert unknown.status_code == 404 and "did you mean cross" in unknown.json()["detail"]
    routes = {head["name"]: head["routes"] for head in served.client.get("/heads").json()["heads"]}
    assert [name for name, found in routes.items() if f"/rerank/{name}" in found] == ["cross", "likeness", "fussy"]
    enum = served.client.get("/openapi.json").json()["paths"]["/rerank/{head}"]["post"]["parameters"][0]["schema"][
        "enum"
    ]
    assert enum == ["cross", "likeness", "fussy"]
