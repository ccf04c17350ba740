"""If this breaks, the benchmark does not measure what it says: requests get lost, or figures do not add up."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest

from models import onnx_runtime
from models.bundle import read_bundle
from models.row import Row
from models.session import Session
from models.task import Trained
from models.task_registry import TASKS
from models.tokenizer import Tokenizer
from tests.benchmarks import cores, fairness, few_examples, fronts, overload, roberta, sharing, soak, traces
from tests.benchmarks.__main__ import main
from tests.benchmarks.contenders import Server, Service, choices, paused, stat
from tests.benchmarks.gpu import __main__ as gpu
from tests.benchmarks.gpu import small_wheel
from tests.benchmarks.load import Answer, BenchmarkError, Load, offer
from tests.benchmarks.peaks import needed_operations
from tests.benchmarks.workloads import Workloads, variants
from tests.kernels.sessions import LEFT_OUT, opening_with
from tests.programs import has_gpu
from tests.service.bundles import HEADS, write_bundle
from tests.service.serving import until

ROUNDS = 2
TEXTS = ["the cat runs in the house .", "the big dog eats .", "the man sees a woman in the old city .", "a cat ."] * 3


@pytest.mark.slow
def test_every_request_of_every_contender_is_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    only, workloads, connections = ["naive", "raw", "raw-onnx"], ["short", "heads"], [1, 3]
    bundle, out = write_bundle(tmp_path / "tiny", tokenizer), tmp_path / "report.json"
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    options = f"--bundle {bundle} --texts {texts} --json {out} --seconds 0.1 --rounds {ROUNDS} --overload"
    given = ["--only", *only, "--workloads", *workloads, "--connections", *map(str, connections)]
    assert main([*options.split(), *given]) == 0
    report = json.loads(out.read_text())
    names = {"short": ["bertheads", *only], "heads": ["bertheads", *(name for name in only if name != "naive")]}
    expected = [
        (work, count, name)
        for work in workloads
        for count in connections
        for _ in range(ROUNDS)
        for name in names[work]
    ]
    assert [(run["workload"], run["connections"], run["contender"]) for run in report["runs"]] == expected
    for run in report["runs"]:
        assert run["requests"] >= run["connections"] and 0 < run["p50"] <= run["p95"] <= run["p99"]
        if run["contender"] == "bertheads":
            assert run["rows"] == run["requests"] and 1 <= run["rows_a_batch"] <= run["connections"]
            assert run["memory_mb"] > 10
    for middle in report["medians"]:
        keys = ("workload", "contender", "connections")
        group = [run for run in report["runs"] if all(run[key] == middle[key] for key in keys)]
        assert middle["rate"] == pytest.approx(sum(run["rate"] for run in group) / ROUNDS)
        assert middle["ratio"] == 1 or middle["contender"] != "bertheads"
    for line in report["overload"]:
        assert 0 < sum(line["statuses"].values()) and set(line["statuses"]) <= {"200", "429", "504"}
        assert 0 <= line["goodput"]  # none may be in time on a busy machine


def test_sessions_opened_without_kernels_have_none_and_later_ones_have(tokenizer: Tokenizer, tmp_path: Path) -> None:
    bundle = read_bundle(write_bundle(tmp_path / "tiny", tokenizer, precisions=["int8"]))
    with opening_with(LEFT_OUT):
        assert Session(bundle).pads
    assert Session(bundle).pads == (not onnx_runtime.KERNELS.exists())


def test_contenders_that_wait_for_their_turn_are_paused() -> None:
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    parent = f"import subprocess, time; p = subprocess.Popen({child}); print(p.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pids = [process.pid, int(process.stdout.readline())]
        idle = Server(Service("idle", lambda port: []), process.pid, ("127.0.0.1", 1), ThreadPoolExecutor(1))
        try:
            with pytest.raises(BenchmarkError), paused([idle]):
                until(lambda: [stat(pid)[0] for pid in pids] == ["T", "T"])
                raise BenchmarkError
            until(lambda: "T" not in [stat(pid)[0] for pid in pids])
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)


def test_an_impossible_measurement_is_one_sentence(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_bundle(tmp_path / "pairs", tokenizer, {"nli": HEADS["nli"]})
    bundle = write_bundle(tmp_path / "tiny", tokenizer)
    (tmp_path / "empty.jsonl").touch()
    for options, sentence in (
        (f"--bundle {tmp_path}/none", "none is not a directory"),
        (f"--bundle {pairs}", "pairs has no classify head"),
        (f"--bundle {bundle} --texts {tmp_path}/empty.jsonl", "empty.jsonl is not JSON lines"),
        (f"--bundle {bundle} --only ours", "there is no contender 'ours'; there are naive, infinity"),
    ):
        assert main(options.split()) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


def test_workloads_have_the_lengths_and_tasks_that_they_say(tokenizer: Tokenizer, tmp_path: Path) -> None:
    workloads = Workloads(read_bundle(write_bundle(tmp_path / "tiny", tokenizer)), TEXTS)
    short, heads = workloads.make("short"), workloads.make("heads")
    assert {each.task for each in heads} == set(TASKS)
    alike = [abs(one.tokens - other.tokens) for one, other in zip(short, heads, strict=True)]
    assert max(alike) <= 6 and sum(alike) <= 3 * len(alike)  # a separator more, a word of several pieces masked
    lengths = sorted(each.tokens for each in workloads.make("mixed"))
    assert lengths[0] < 30 < lengths[-1] <= 64


def test_a_text_is_one_row_for_all_contenders(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A head that reads windows would compute more than others, and a loop over first rows less than the service."""
    bundle = read_bundle(write_bundle(tmp_path / "tiny", tokenizer))
    head = bundle.manifest.heads["sentiment"].model_copy(
        update={"trained": Trained(max_length=16), "defaults": {"truncation": "windows"}}
    )
    bundle.manifest.heads["sentiment"] = head
    (question,) = Workloads(bundle, ["the cat runs " * 8]).make("short")
    assert len(question.row.input_ids) == question.tokens > 16
    assert json.loads(question.call[1])["parameters"] == {"truncation": "right"}
    several = question._replace(rows=(question.row, question.row))
    assert several.tokens == 2 * question.tokens
    with pytest.raises(BenchmarkError, match="has 2 rows, expected one"):
        _ = several.row


def test_needed_operations_are_those_of_the_products(tokenizer: Tokenizer, tmp_path: Path) -> None:
    bundle = read_bundle(write_bundle(tmp_path / "tiny", tokenizer))
    row = Workloads(bundle, ["the cat runs"]).make("short")[0].row
    width, layers, tokens = bundle.manifest.encoder.hidden_size, bundle.manifest.encoder.layers, len(row.input_ids)
    products = [(tokens, width, width)] * 3 * layers + [(tokens, width, tokens), (tokens, tokens, width)] * layers
    for layer in range(layers):
        read = len(row.positions) if layer == layers - 1 else tokens
        products += [(read, width, width), (read, width, 4 * width), (read, 4 * width, width)]
    assert needed_operations(bundle, row) == 2 * sum(m * k * n for m, k, n in products)


@pytest.mark.slow
def test_the_mixture_asks_every_head_as_often_as_it_is_asked_alone(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "tiny", tokenizer, max_length=256)
    assert sharing.main([f"--bundle={bundle}", "--seconds=0.1", "--rounds=1", "--connections=4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(rate > 0 for rate in found["requests_per_s"].values()) and len(found["rounds"]) == 1
    rounds = [{"a": 100.0, "b": 300.0, sharing.MIXED: 150.0}, {"a": 100.0, "b": 300.0, sharing.MIXED: 75.0}]
    assert sharing.summary(rounds)["rounds"] == [1.0, 0.5]  # a second of a, a third of a second of b: 200 in 4/3 s


@pytest.mark.slow
def test_traces_are_compared_with_none(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "FULL", {"OTEL_BSP_SCHEDULE_DELAY": "20"})
    monkeypatch.setattr(traces, "MODES", {"sampled": traces.MODES["sampled"]})
    bundle = write_bundle(tmp_path / "tiny", tokenizer, max_length=256)
    assert traces.main([f"--bundle={bundle}", "--seconds=0.3", "--rounds=1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(each["cpu_ms"] > 0 for each in found.values())
    assert found["off"]["spans"] < 1 < 4 < found["sampled"]["spans"]  # late ones count for whoever runs then


@pytest.mark.slow
def test_the_cost_of_fronts_and_of_the_engine_process_is_told_apart(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "tiny", tokenizer, max_length=256)
    options = [f"--bundle={bundle}", "--workloads", "short", "--seconds=0.3", "--windows=1", "--rows=8"]
    assert fronts.main(options) == 0
    found = json.loads(capsys.readouterr().out)["short"]
    assert set(found) == {"front_cpu_ms", "engine_cpu_ms", "row_cpu_ms"}
    assert all(least > 0 and middle >= least for middle, least in found.values())
    with pytest.raises(BenchmarkError, match="has no engine process"):
        fronts.engine_process(os.getpid())


@pytest.mark.slow
def test_a_lonely_request_is_timed_beside_each_load(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "tiny", tokenizer, max_length=256)
    assert fairness.main([f"--bundle={bundle}", "--seconds=0.3", "--json"]) == 0
    nobody, lists, text = json.loads(capsys.readouterr().out)
    assert nobody["answered"] == nobody["refused"] == 0 < lists["answered"] and text["answered"] > 0
    for line in (nobody, lists, text):
        assert line["requests"] > 0 and 0 < line["p50"] <= line["p95"] <= line["p99"]


@pytest.mark.slow
def test_overload_is_offered_with_deadlines_and_without(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "tiny", tokenizer)
    for option, deadline in ("--rounds=1", 0), ("--no-deadline", 30_000):
        assert overload.main([f"--bundle={bundle}", "--seconds=0.3", "--rates", "0.5", "1", option]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["rate"] for line in lines] == [0.5, 1.0]
        assert all(line["deadline_ms"] > 0 for line in lines)
        assert not deadline or (lines[0]["deadline_ms"] == deadline and all(line["goodput"] > 0 for line in lines))


def test_goodput_counts_the_answers_before_the_deadline() -> None:
    seconds = {200: [0.1, 0.2, 0.3, 0.9], 429: [0.01, 0.03], 504: [0.5]}
    answers = [Answer(number, status, each, b"") for status, of in seconds.items() for number, each in enumerate(of)]
    found = overload.outcome(Load(2.0, answers, 0.0), peak=3.0, deadline=0.3, long={2, 3})
    assert found["goodput"] == pytest.approx(3 / 2.0 / 3.0) and found["offered"] == 7 / 2.0
    assert found["statuses"] == {200: 4, 429: 2, 504: 1} and found["deadline_ms"] == 300
    assert [found[key] for key in ("p50", "p99_long", "refusal_p50")] == pytest.approx([250, 894, 20])


def test_variants_of_a_row_differ_and_have_its_length() -> None:
    row = Row([2, 7, 3], [0, 0, 0], [0])
    found = variants(row, 5)
    assert len({each.key for each in found}) == 5 and {len(each.input_ids) for each in found} == {3}


@pytest.mark.slow
def test_the_soak_finds_answers_that_differ_and_none_here(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "tiny", tokenizer)
    assert soak.main([f"--bundle={bundle}", "--requests=1000", "--inputs=50", "--connections=16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == 1000 and found["largest_difference"] <= 1e-6 and found["memory_mb"]["last"] > 10
    one = [{"label": "a", "score": 0.5}]
    assert soak.difference(one, [{"label": "a", "score": 0.25}]) == 0.25
    for other in ([{"label": "b", "score": 0.5}], [], [{"label": "a", "score": 1}], [{"label": "a"}]):
        assert soak.difference(one, other) == float("inf")


@pytest.mark.slow
def test_lanes_that_sleep_answer_as_fast_as_they_are_told(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "tiny", tokenizer)
    options = f"--bundle {bundle} --lanes 1 2 --seconds 0.5 --speed 1000"
    assert cores.main(options.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["requests_per_s"]) == {"1", "2"} and all(rate > 0 for rate in found["requests_per_s"].values())
    assert cores.summary({2: 100.0, 4: 150.0}, 1.0)["times_one_lane"] == {2: 2.0, 4: 3.0}


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.gpu.engine.BATCH_TOKENS", (64, 1024))
    monkeypatch.setattr("tests.benchmarks.gpu.engine.MASKS", 32)


@pytest.mark.slow
def test_the_program_for_gpus_measures_errors_and_rates_on_cpu_too(
    capsys: pytest.CaptureFixture[str], small_batches: None
) -> None:
    options = "--provider cpu --networks tiny --lengths 16 --workers 1 --workloads mixed --seconds 0.2"
    assert gpu.main(options.split()) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    middle = [*["correctness"] * 3, "masks", "new shapes", "peak", *["rows"] * 4, "http"]
    assert [line["step"] for line in lines] == ["device", *middle, "memory", "end"]
    for line in lines[1:4]:
        assert line["difference_in_a_batch"] == 0 < line["difference_to_fp32"] < line["largest_logit"]
    assert lines[4]["difference"] == 0 < lines[4]["five_tokens_ms"], "a CPU gives all logits in any case"
    for line in lines[7:11]:
        assert line["rows_per_s"] > 0 and line["tokens_per_s"] > 8 * line["rows_per_s"] and 0 < line["peak_share"] < 1
    assert [line["length"] for line in lines[7:11]] == [16, 16, "mixed", "mixed"]
    assert lines[11]["rate"] > 0
    assert lines[-1]["left_out"] == []


def test_the_program_for_gpus_ends_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--provider cpu --networks tiny --lengths 16 --workers 1 --minutes 0"
    assert gpu.main(options.split()) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["step"] for line in lines] == ["device", "peak", "memory", "end"]
    assert len(lines[-1]["left_out"]) == 3 + 1 + 1 + 4 + 2


def test_the_program_for_gpus_goes_on_after_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, small_batches: None
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("tests.benchmarks.gpu.engine.first_and_second_runs", fail)
    assert gpu.main("--provider cpu --networks tiny --lengths 16 --workers --seconds 0.01".split()) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[5]["step"] == "new shapes" and lines[5]["error"] == "RuntimeError: CUDA out of memory"
    assert lines[6]["step"] == "peak" and lines[-1]["step"] == "end"


def test_a_wheel_with_the_code_of_one_compute_capability(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = {75: b"old", 90: b"new code"}
    images = [small_wheel.IMAGE.pack(2, 1, small_wheel.IMAGE.size, len(code[kind]), kind) + code[kind] for kind in code]
    body = b"".join(images)
    header = small_wheel.CONTAINER.pack(0xBA55ED50, 1, small_wheel.CONTAINER.size, len(body))
    library = b"ELF" + small_wheel.MAGIC + b"by chance" + header + body + b"rest"
    with ZipFile(tmp_path / "whole.whl", "w") as whole:
        whole.writestr(f"onnxruntime/capi/{small_wheel.LIBRARY}", library)
        whole.writestr("onnxruntime/capi/libonnxruntime.so.1", "unread")
        whole.writestr("onnxruntime/__init__.py", "read")
    files = [str(tmp_path / name) for name in ("whole.whl", "small.whl")]
    assert small_wheel.main(files) == 0
    with ZipFile(files[1]) as small:
        assert len(small.namelist()) == 2
        assert small.read(small.namelist()[0]) == library.replace(b"old", bytes(3))
    assert small_wheel.main([*files, "--capability", "80"]) == 1
    assert "the wheel has code for [75, 90], expected 80" in capsys.readouterr().err


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_the_program_for_gpus_says_that_there_is_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 1
    assert "expected CUDAExecutionProvider; install onnxruntime-gpu" in capsys.readouterr().err


def test_labels_are_found_in_any_answer() -> None:
    one = {"label": "a", "score": 0.5}
    for answer in ([one], [[one]], {"data": [[one]], "model": "m"}):
        assert list(choices(answer)) == [one]


@pytest.fixture
def refusing() -> Iterator[tuple[str, int]]:
    """A server that refuses every second request."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.headers["X-Deadline-Ms"])
            self.send_response(429 if len(seen) % 2 else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()
    assert set(seen) == {"50"}


def test_the_open_loop_sends_all_and_counts_every_status(refusing: tuple[str, int]) -> None:
    load = offer(refusing, [("/classify", b"{}")], 200, 1.0, "X-Deadline-Ms: 50\r\n")
    assert len(load.answers) == 200 and len(load.latencies()) == len(load.latencies(429)) == 100
    assert load.seconds > 0.5


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_int8_is_compared_on_one_network(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"--family {family} --layers 1 --width 64 --rows 6 --batch 3 --rounds 1 --threads 2"
    assert roberta.main(options.split()) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[1]) for line in lines[:4]] == [
        (name, str(count)) for name in ("onnxruntime", "ours") for count in (1, 2)
    ]
    assert [float(line[5].rstrip("%")) < 50 for line in lines[4:6]] == [True, True], "both run this network"
    rates = [max(float(line[4]) for line in lines[:4] if line[0] == name) for name in ("ours", "onnxruntime")]
    assert float(lines[-1][-1]) == pytest.approx(rates[0] / rates[1], rel=0.02)


def test_few_examples_are_as_many_of_each_drawn_class(tmp_path: Path) -> None:
    for name, count in (("train", 9), ("test", 5)):
        lines = [json.dumps({"text": f"{name} {number}", "label": "abcd"[number % 4]}) for number in range(4 * count)]
        lines.append(json.dumps({"text": "rare", "label": "e"}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf8")
    files = [str(tmp_path / "train.jsonl"), "--test", str(tmp_path / "test.jsonl")]
    options = few_examples.parse([*files, "--per-class=3", "--classes=2", "--without=a"])
    rows, asked = few_examples.draw(options)
    counts = Counter(one.label for one in rows)
    assert list(counts.values()) == [3, 3] and not counts.keys() & {"a", "e"} and len({one.text for one in rows}) == 6
    assert Counter(one.label for one in asked) == dict.fromkeys(counts, 5)
