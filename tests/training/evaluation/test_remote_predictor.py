"""If these fail, the same heads have different figures in memory, in a directory and behind a URL."""

import argparse
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from pydantic import SecretStr

from models.bundle import read_bundle
from models.checkpoint import Checkpoint, Head, write_checkpoint
from models.config import EncoderConfig
from models.encoder import Encoder
from models.heads import build_head
from models.onnx_runtime import Precision
from models.predictor import Predictor
from models.qa import QuestionInput
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from service.app import create_app
from service.listener import listen
from service.settings import Settings
from tests.service.bundles import write_bundle
from training.errors import EvaluationError
from training.evaluation.evaluate import evaluate, open_predictor
from training.evaluation.evaluate_command import add_arguments, evaluate_command
from training.evaluation.labeling import label
from training.evaluation.metrics import headline
from training.evaluation.predictors import AnyPredictor, CheckpointPredictor
from training.evaluation.remote_predictor import UrlPredictor, seconds

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SPECS = {
    "mood": HeadSpec("classify", ["bad", "good"]),
    "nli": HeadSpec("pair", ["no", "yes"]),
    "ner": HeadSpec("tag", TAGS),
    "qa": HeadSpec("qa", []),
    "words": HeadSpec("fill-mask", []),
}
RECORDS: dict[str, list[dict[str, Any]]] = {
    "mood": [{"text": "the cat sat . " * n, "label": "good" if n % 3 else "bad"} for n in range(1, 20)],
    "nli": [{"text_a": "the cat " * n, "text_b": "a dog", "label": "yes"} for n in range(1, 10)],
    "ner": [{"tokens": ["Jo-Ann", "left"] * n, "tags": ["B-PER", "O"] * n} for n in range(1, 10)],
    "qa": [
        {"id": "1", "context": "the cat sat " * 20, "question": "who?", "answers": {"text": [], "answer_start": []}},
        {"id": "2", "context": "the cat", "question": "who?", "answers": {"text": ["cat"], "answer_start": [4]}},
    ],
    "words": [{"title": None, "text": "the cat sat , and the dog ran . " * 40}],
}


@pytest.fixture(scope="module")
def checkpoint(tokenizer: Tokenizer) -> Checkpoint:
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    encoder = Encoder(config)
    heads = {
        name: Head(spec, build_head(spec.task, len(spec.labels), config, encoder.embeddings.word))
        for name, spec in SPECS.items()
    }
    return Checkpoint(config, encoder, tokenizer, heads)


@pytest.fixture(scope="module")
def predictor(checkpoint: Checkpoint) -> CheckpointPredictor:
    return CheckpointPredictor.of(checkpoint)


@pytest.fixture(scope="module")
def directory(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(checkpoint, directory)
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("data")
    for name, records in RECORDS.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (directory / f"{name}.jsonl").write_text(text, encoding="utf8")
    return {name: directory / f"{name}.jsonl" for name in RECORDS}


@pytest.fixture(scope="module")
def bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    return write_bundle(out, tokenizer, SPECS, precisions=("int8", "fp32"), max_length=128)


@pytest.fixture(scope="module")
def url(bundle: Path) -> Iterator[str]:
    """The real service on that bundle, in a thread, asking for a key."""
    listener = listen("127.0.0.1", 0)
    app = create_app(Settings(bundles=(bundle,), lanes=2, api_key=SecretStr("secret")))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while app.state.service.obstacles():
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("head", SPECS)
def test_a_service_has_the_figures_of_its_bundle(bundle: Path, url: str, data: dict[str, Path], head: str) -> None:
    local = Predictor(read_bundle(bundle))
    expected = evaluate(local, head, [data[head]])
    assert f"{headline(expected)}_chance" in expected
    if head == "words":
        assert expected.pop("loss") > 0  # a service sends no logits
    over_http = evaluate(UrlPredictor(url, "secret", local.tokenizer), head, [data[head]])
    assert over_http == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("head", ["mood", "ner"])
def test_a_service_labels_as_its_bundle_does(bundle: Path, url: str, head: str) -> None:
    texts = ["the cat sat , and the dog ran", "Jo-Ann left"]
    ours = label(Predictor(read_bundle(bundle)), head, texts)
    for one, expected in zip(label(UrlPredictor(url, "secret"), head, texts), ours, strict=True):
        assert one.record == expected.record and one.sure == pytest.approx(expected.sure, abs=1e-6)


TAGGED = [" ".join(["Jo-Ann", "left", "the", "U.N.", "in", "Köln"] * count) for count in (1, 40, 3, 7)]
ASKED = [QuestionInput(question="who sat?", context="the cat sat . a dog ran . " * count) for count in (1, 30, 4)]


@pytest.mark.parametrize(
    ("head", "inputs", "parameters"),
    [
        ("ner", TAGGED, {"aggregation_strategy": "none", "ignore_labels": []}),
        ("qa", ASKED, {"top_k": 1}),
        ("qa", ASKED, {"top_k": 1, "handle_impossible_answer": True}),
    ],
)
def test_a_service_gives_the_answers_of_its_bundle(
    bundle: Path, url: str, head: str, inputs: list[Any], parameters: dict[str, Any]
) -> None:
    """Random heads score near 0 on any data, where equal figures would say little."""
    local = answers(Predictor(read_bundle(bundle)), head, inputs, parameters)
    over_http = answers(UrlPredictor(url, "secret"), head, inputs, parameters)
    assert over_http == local
    assert len({json.dumps(answer) for answer in local}) == len(inputs)
    if head == "ner":
        assert len({unit["entity"] for answer in local for unit in answer}) > 1


def answers(predictor: AnyPredictor, head: str, inputs: list[Any], parameters: dict[str, Any]) -> list[Any]:
    found = {one.index: without_scores(one.answer) for one in predictor.predict(head, inputs, parameters)}
    return [found[index] for index in range(len(inputs))]


def without_scores(answer: Any) -> Any:
    if isinstance(answer, list):
        return [without_scores(one) for one in answer]
    return {key: value for key, value in answer.items() if key != "score"}


@pytest.mark.parametrize("head", SPECS)
def test_a_checkpoint_has_the_same_figures_in_memory_and_on_disk(
    predictor: CheckpointPredictor, directory: Path, data: dict[str, Path], head: str
) -> None:
    expected = evaluate(predictor, head, [data[head]])
    assert evaluate(open_predictor([str(directory)]), head, [data[head]]) == pytest.approx(expected, abs=1e-6)


def test_a_bundle_is_opened_in_the_precision_that_is_asked_for(bundle: Path, data: dict[str, Path]) -> None:
    def loss(precision: Precision | None) -> float:
        return evaluate(open_predictor([str(bundle)], precision), "mood", [data["mood"]])["loss"]

    assert loss(None) == loss("int8") == pytest.approx(loss("fp32"), rel=0.2)
    assert loss("int8") != loss("fp32")


def test_several_files_count_together_and_the_limit_holds_for_each(
    predictor: CheckpointPredictor, data: dict[str, Path]
) -> None:
    assert evaluate(predictor, "mood", [data["mood"], data["mood"]])["examples"] == 38
    assert evaluate(predictor, "mood", [data["mood"], data["mood"]], limit=3)["examples"] == 6


def test_what_a_service_refuses_is_passed_on(url: str) -> None:
    with pytest.raises(EvaluationError, match=r"/heads/mo%2Fods gave status 404: there is no"):
        UrlPredictor(url, "secret").head("mo/ods")
    with pytest.raises(EvaluationError, match=r"/classify/mood gave status 422: parameters.top_k: is 13, but"):
        list(UrlPredictor(url, "secret").predict("mood", ["a"], {"top_k": 13}))
    with pytest.raises(EvaluationError, match=r"/heads/mood gave status 401"):
        UrlPredictor(url, "wrong").head("mood")


def test_a_service_that_is_not_there_is_an_error_that_names_it() -> None:
    with listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(EvaluationError, match=rf"{url} does not answer .* start it with python -m service"):
        UrlPredictor(url).head("mood")


def answering(monkeypatch: pytest.MonkeyPatch, *responses: httpx.Response) -> None:
    remaining = list(responses)
    transport = httpx.MockTransport(lambda request: remaining.pop(0))
    client = partial(httpx.Client, transport=transport, base_url="http://service")
    monkeypatch.setattr(UrlPredictor, "_client", lambda self: client())


def test_a_busy_service_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    head = httpx.Response(200, json={"task": "classify", "labels": ["bad", "good"]})
    busy = [httpx.Response(status, json={"detail": "full"}, headers={"Retry-After": "0"}) for status in (429, 503)]
    answering(monkeypatch, *busy, head, *busy, httpx.Response(200, json=[["first"], ["second"]]))
    predictions = list(UrlPredictor("http://service").predict("mood", ["a", "b"], {}))
    assert [(one.index, one.answer) for one in predictions] == [(0, ["first"]), (1, ["second"])]


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, httpx.Response(503, json={"detail": "draining"}, headers={"Retry-After": "3600"}))
    with pytest.raises(EvaluationError, match="gave status 503: draining"):
        UrlPredictor("http://service").head("mood")


def test_an_answer_that_is_no_json_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, httpx.Response(502, text="<html>Bad Gateway</html>"))
    with pytest.raises(EvaluationError, match=r"gave status 502 and '<html>Bad Gateway</html>', expected JSON"):
        UrlPredictor("http://service").head("mood")


def test_a_url_that_is_none_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="http://host:port is not a URL .* expected http://HOST:PORT"):
        UrlPredictor("http://host:port")


def test_what_is_neither_url_nor_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="is not a URL and has neither bundle.json nor config.json"):
        open_predictor([str(tmp_path)])


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_command_prints_a_table_and_writes_json(
    directory: Path, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out.json", str(data["mood"])
    evaluate_command(parse(str(directory), "--head", "mood", "--data", file, "--limit", "5", "--json", str(out)))
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "chance" in printed and "80.00 %" in printed
    report = json.loads(out.read_text())
    assert report["scores"]["examples"] == 5
    assert report["files"][0]["file"] == file
    assert len(report["files"][0]["sha256"]) == 64
    assert report["command"].startswith("python -m training")


def test_the_command_prints_and_writes_a_report(
    directory: Path, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(directory), "--head", "mood", "--data", str(data["mood"]), "--report"]
    for _ in range(2):  # a report may be written again
        evaluate_command(parse(*words, str(tmp_path / "report")))
    printed = capsys.readouterr().out
    assert "precision" in printed and f"report: {tmp_path / 'report'}" in printed
    wrong = (tmp_path / "report" / "wrong.jsonl").read_text(encoding="utf8").splitlines()
    assert {"text", "expected", "found", "score"} == json.loads(wrong[0]).keys()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "wrong.jsonl").write_text("by hand")
    for name, found in (("mine", "has files but no report.json"), ("mine/wrong.jsonl", "is a file")):
        with pytest.raises(EvaluationError, match=f"{name} {found}"):
            evaluate_command(parse(*words, str(tmp_path / name)))


def test_the_command_reads_any_table(
    directory: Path, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in data["mood"].read_text().splitlines()]
    folder, out = tmp_path / "folder", tmp_path / "out.json"
    folder.mkdir()
    table = "".join(f"{row['text']};{row['label']}\n" for row in rows)
    (folder / "a.csv").write_text("what;mood\n" + table + ";good\n", encoding="utf8")
    options = ["--columns", "text=what,label=mood", "--skip-broken", "1"]
    evaluate_command(parse(str(directory), "--head", "mood", "--data", str(folder), *options, "--json", str(out)))
    report = json.loads(out.read_text())
    assert report["files"][0]["file"] == str(folder / "a.csv")
    evaluate_command(parse(str(directory), "--head", "mood", "--data", str(data["mood"]), "--json", str(out)))
    assert json.loads(out.read_text())["scores"] == report["scores"]
    assert "skipped: " in capsys.readouterr().err


def test_arguments_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for limit in ("0", "-1", "many"):
        with pytest.raises(SystemExit):
            parse("model", "--head", "mood", "--data", "a.jsonl", "--limit", limit)
    assert "is not a whole number, 1 or more" in capsys.readouterr().err
    arguments = parse("model", "--head", "qa", "--data", "a.jsonl", "b.jsonl", "--data", "c.jsonl")
    assert [path.name for path in arguments.data] == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_another_service_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UrlPredictor, "_ask", lambda *_: {"a": 1})
    with pytest.raises(EvaluationError, match="http://else does not describe its heads; pass the URL of this service"):
        UrlPredictor("http://else").head("mood")


def test_a_service_may_say_by_a_date_when_to_ask_again() -> None:
    assert seconds("7") == 7 and seconds("Sat, 28 Nov 2026 04:00:00 GMT") == 1
