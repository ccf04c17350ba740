"""If this breaks, drift is reported for a parameter, another bundle or a reload, or is not reported at all."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle import read_bundle, seal
from models.observation import Bins, observe
from models.predictor import Predictor
from models.reference import Numbers
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.service.bundles import HEADS, reference, write_bundle
from tests.service.processes import process
from tests.service.reloading import controlled, load, write_versions
from tests.service.serving import Served, serving, until

MULTI = {"flags": HeadSpec("classify", ["a", "b", "c"], problem_type="multi_label_classification")}
OTHERS = MULTI | {
    "stars": HeadSpec("classify", ["stars"], problem_type="regression"),
    "match": HeadSpec("pair", ["match"]),
}
TEXTS = ["the cat sees a dog", "the man lives in the city by the sea", "☃ cat"]
INPUTS: dict[str, Any] = {
    "/classify/sentiment": TEXTS,
    "/classify/flags": TEXTS,
    "/classify/stars": TEXTS,
    "/pair/nli": [{"text": text, "text_pair": "a dog"} for text in TEXTS],
    "/pair/match": [{"text": text, "text_pair": "a dog"} for text in TEXTS],
    "/tag/ner": TEXTS,
    "/qa/qa": [{"question": "who?", "context": text} for text in TEXTS],
    "/fill-mask/fill-mask": [f"{text} [MASK]" for text in TEXTS],
}
"""Requests as by default."""


@pytest.fixture(scope="module")
def bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", tokenizer, HEADS | OTHERS)


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Served]:
    with serving(bundle) as served:
        yield served


def counts(served: Served, head: str, figure: str = "tokens") -> float:
    """Return how many inputs were counted for a figure of a head."""
    return sum(bins(served, head, figure).values())


def bins(served: Served, head: str, figure: str) -> dict[str, float]:
    samples = (sample for metric in served.service.metrics.drift_inputs.collect() for sample in metric.samples)
    wanted = {"head": head, "figure": figure}
    return {one.labels["bin"]: one.value for one in samples if one.labels.items() >= wanted.items()}


def series(served: Served) -> set[tuple[str, str, str]]:
    samples = (sample for metric in served.service.metrics.reference_share.collect() for sample in metric.samples)
    return {(one.labels["head"], one.labels["figure"], one.labels["bin"]) for one in samples}


def asked(served: Served, path: str, body: dict[str, Any], **headers: str) -> int:
    """Send a request, and return how many inputs all heads together counted for it."""
    before = sum(counts(served, head) for head in HEADS | OTHERS)
    response = served.client.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return int(sum(counts(served, head) for head in HEADS | OTHERS) - before)


# ---- what is counted -------------------------------------------------------------------------------------------------


def test_every_series_exists_from_the_start(bundle: Path) -> None:
    with serving(bundle) as served:
        assert counts(served, "topic") == 0 and set(bins(served, "topic", "label")) == {"art", "law", "sea", "war"}
        assert {figure for head, figure, _ in series(served) if head == "topic"} == {
            *("label", "confidence", "tokens", "truncated", "unknown")
        }
        assert served.sample("reference_share", head="topic", figure="truncated", bin="yes") == 0.1
        empty = served.sample("reference_share", head="topic", figure="unknown", bin=">0.2")
        assert empty == 0.5 / 1000, "0 means that a bin is not in use"
        assert served.sample("reference_inputs", head="topic") == 1000


@pytest.mark.parametrize("path", INPUTS)
def test_inputs_are_counted_where_export_counts_them(served: Served, bundle: Path, path: str) -> None:
    name, predictor = path.rpartition("/")[2], Predictor(read_bundle(bundle))
    task, found = predictor.task(name), predictor.heads[name]
    expected: dict[tuple[str, str], float] = {}
    given = [task.inputs.model_validate(one) if isinstance(one, dict) else one for one in INPUTS[path]]
    for one in predictor.predict(name, given, {}):
        seen = observe(task, task.encode(given[one.index], task.parse_parameters({})), one.answer)
        for figure, bin, amount in Bins(reference(found)).of(seen):
            expected[figure, bin] = expected.get((figure, bin), 0.0) + amount
    figures = reference(found).shares
    before = {figure: bins(served, name, figure) for figure in figures}
    served.answer(path, INPUTS[path])
    for figure in figures:
        after = {bin: value - before[figure][bin] for bin, value in bins(served, name, figure).items()}
        assert after == pytest.approx({bin: expected.get((figure, bin), 0.0) for bin in after})
        assert sum(after.values()) == pytest.approx(len(TEXTS)), "each input counts once"


@pytest.mark.parametrize(
    ("path", "body", "counted"),
    [
        ("/classify", {"inputs": TEXTS}, 3),
        ("/classify", {"inputs": TEXTS, "parameters": {"top_k": 1}}, 3),
        ("/classify", {"inputs": TEXTS, "parameters": {"function_to_apply": "softmax"}}, 3),
        ("/classify", {"inputs": TEXTS, "parameters": {"function_to_apply": "sigmoid"}}, 0),
        ("/classify", {"inputs": TEXTS, "parameters": {"threshold": 0.9}}, 0),
        ("/classify", {"inputs": TEXTS, "parameters": {"truncation": "left"}}, 0),
        ("/classify", {"inputs": TEXTS, "parameters": {"max_length": 8}}, 0),
        ("/classify/flags", {"inputs": TEXTS}, 3),
        ("/classify/flags", {"inputs": TEXTS, "parameters": {"top_k": 1}}, 0),
        ("/tag", {"inputs": TEXTS, "parameters": {"redact": True}}, 3),
        ("/tag", {"inputs": TEXTS, "parameters": {"aggregation_strategy": "none"}}, 0),
        ("/tag", {"inputs": ["the", "cat"], "parameters": {"is_split_into_words": True}}, 0),
        ("/fill-mask", {"inputs": "the [MASK]", "parameters": {"top_k": 3}}, 1),
        ("/fill-mask", {"inputs": "the [MASK]", "parameters": {"targets": ["cat"]}}, 0),
        ("/qa", {"inputs": {"question": "who?", "context": "the cat"}, "parameters": {"top_k": 2}}, 1),
        ("/qa", {"inputs": {"question": "who?", "context": "the cat"}, "parameters": {"max_answer_len": 2}}, 0),
        ("/zero-shot/nli", {"inputs": "the cat", "parameters": {"candidate_labels": ["a", "b"]}}, 0),
        ("/rerank/match", {"query": "the cat", "texts": TEXTS}, 0),
        ("/heads", {"inputs": TEXTS, "heads": ["sentiment", "topic", "ner"]}, 9),
        ("/classify", {"input": TEXTS}, 0),  # vLLM's, which answers for the least safe window
        ("/v1/models/sentiment:predict", {"instances": TEXTS}, 3),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_answers_changed_by_a_parameter_do_not_count_as_drift(
    served: Served, path: str, body: dict[str, Any], counted: int
) -> None:
    assert asked(served, path, body) == counted


@pytest.mark.parametrize(("outputs", "counted"), [(["label"], 2), (["label", "scores"], 0)])
def test_requests_over_the_inference_protocol_count_too(served: Served, outputs: list[str], counted: int) -> None:
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": TEXTS[:2]}
    body = {"inputs": [tensor], "outputs": [{"name": name} for name in outputs]}
    assert asked(served, "/v2/models/sentiment/infer", body) == counted


def test_refused_requests_do_not_count(served: Served) -> None:
    before = counts(served, "qa")
    long = {"question": "who?", "context": "cat " * 60_000}
    assert served.post("/qa", long).status_code == 422
    assert counts(served, "qa") == before


# ---- bundles ---------------------------------------------------------------------------------------------------------


def without_reference(directory: Path, out: Path) -> Path:
    bundle = read_bundle(directory)
    heads = {name: head.model_copy(update={"reference": None}) for name, head in bundle.manifest.heads.items()}
    seal(directory, bundle.manifest.model_copy(update={"heads": heads}))
    return directory.rename(out)


def test_a_bundle_without_reference_figures_counts_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    bundle = without_reference(write_bundle(tmp_path / "tiny", tokenizer), tmp_path / "plain")
    assert "reference" not in (bundle / "bundle.json").read_text()
    with serving(bundle) as served:
        served.answer("/classify", TEXTS)
        assert series(served) == set() and counts(served, "sentiment") == 0


def test_canary_shadow_and_pinned_bundles_do_not_count(tokenizer: Tokenizer, tmp_path: Path) -> None:
    old, new = (write_bundle(tmp_path / version, tokenizer, version=version) for version in ("1", "2"))
    with serving(old, canary=new, canary_percent=50, canary_by="X-User", shadow=new) as served:
        found = {"tiny/1": 0, "tiny/2": 0}
        for user in range(40):
            answer = served.client.post("/classify", json={"inputs": "the cat"}, headers={"X-User": str(user)})
            found[answer.headers["X-Bundle"]] += 1
        assert min(found.values()) > 0
        assert counts(served, "sentiment") == found["tiny/1"]
        assert asked(served, "/classify", {"inputs": "the cat"}, **{"X-Bundle": "tiny/1", "X-User": "0"}) == 1
        assert asked(served, "/classify", {"inputs": "the cat"}, **{"X-Bundle": "tiny/2", "X-User": "0"}) == 0


def test_a_renamed_head_counts_under_its_name(bundle: Path) -> None:
    with serving(bundle, rename={"tiny:sentiment": "mood"}) as served:
        served.answer("/classify/mood", TEXTS)
        assert counts(served, "mood") == 3 and not counts(served, "sentiment")


def other_bins(root: Path, version: str) -> None:
    """Give the heads of a version other bins of tokens."""
    bundle = read_bundle(root / "tiny" / version)
    heads = {}
    for name, head in bundle.manifest.heads.items():
        assert head.reference
        tokens = Numbers(edges=[10.0], shares=[0.5, 0.5])
        heads[name] = head.model_copy(update={"reference": head.reference.model_copy(update={"tokens": tokens})})
    seal(bundle.directory, bundle.manifest.model_copy(update={"heads": heads}))


def test_a_reload_with_other_bins_leaves_no_old_ones(tokenizer: Tokenizer, tmp_path: Path) -> None:
    root = write_versions(tmp_path, tokenizer)
    other_bins(root, "2.0.0")
    without_reference(root / "tiny" / "1.1.0", root / "tiny" / "plain").rename(root / "tiny" / "1.1.0")
    with controlled(root, root / "tiny" / "1.0.0") as served:
        served.answer("/classify", TEXTS)
        assert load(served.client, "tiny", "2.0.0").status_code == 200
        assert bins(served, "sentiment", "tokens") == {"<=10": 0.0, ">10": 0.0}
        served.answer("/classify", TEXTS)
        assert counts(served, "sentiment") == 3
        assert load(served.client, "tiny", "1.1.0").status_code == 200
        served.answer("/classify", TEXTS)
        assert series(served) == set() and "bertheads_reference_inputs{" not in served.client.get("/metrics").text


@pytest.mark.slow
def test_figures_of_several_workers_add_up_and_removed_bins_are_marked(tokenizer: Tokenizer, tmp_path: Path) -> None:
    root = write_versions(tmp_path, tokenizer)
    other_bins(root, "2.0.0")
    current = root / "current"
    current.symlink_to(root / "tiny" / "1.0.0")
    with process("--bundle", str(current), "--workers", "2", "--lanes", "1", "--watch", "0.2") as (_, url):

        def values(name: str) -> dict[str, float]:
            lines = httpx.get(f"{url}/metrics", timeout=20).text.splitlines()
            start = f"bertheads_{name}{{"
            wanted = [line for line in lines if line.startswith(start) and 'head="sentiment"' in line]
            tokens = [line for line in wanted if 'figure="tokens"' in line]
            return {line.split('bin="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in tokens}

        until(lambda: '"ready":2' in httpx.get(f"{url}/health/ready", timeout=20).text)
        for _ in range(20):
            assert httpx.post(f"{url}/classify", json={"inputs": TEXTS}).status_code == 200
        until(lambda: sum(values("drift_inputs_total").values()) == 60)
        assert values("reference_share") == {"<=8": 0.25, "(8, 16]": 0.25, "(16, 32]": 0.25, ">32": 0.25}
        (root / "next").symlink_to(root / "tiny" / "2.0.0")
        (root / "next").replace(current)
        until(lambda: values("reference_share").get(">10") == 0.5)
        until(lambda: values("reference_share")[">32"] == 0.0)
