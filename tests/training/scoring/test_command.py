"""If these fail, a run that is killed loses or doubles rows, or a wrong option is reported only after the work."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.dataset
import pyarrow.parquet
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.service.bundles import write_bundle
from tests.service.serving import until
from tests.training.scoring.runs import COMMAND, ENVIRONMENT, children
from training.errors import DataError
from training.scoring.command import main
from training.scoring.outcome import Outcome
from training.scoring.preparation import head_of
from training.scoring.report import finished

ROOT = Path(__file__).parents[3]
ROWS = 10_000
"""Some twenty chunks."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A folder with a bundle, rows, and the answers of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("command")
    write_bundle(folder / "bundle", tokenizer)
    words = "the cat sat on a mat and saw no dog".split()
    rows = ({"id": n, "text": " ".join(words[: 1 + n % 10])} for n in range(ROWS))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(folder, "whole")
    assert done.returncode == 0, done.stderr
    assert f"{ROWS:,} rows in {folder / 'whole'}, no errors" in done.stdout
    return folder


def arguments(folder: Path, out: str, *more: str) -> list[str]:
    return [*COMMAND, str(folder / "rows.jsonl"), "--bundle", str(folder / "bundle"), "--head", "sentiment",
            "--out", str(folder / out), "--processes", "2", *more]  # fmt: skip


def run(folder: Path, out: str, *more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(arguments(folder, out, *more), capture_output=True, text=True, env=ENVIRONMENT, timeout=170)


def finish(folder: Path, out: str) -> None:
    """Continue a run to its end in this process, whose imports are done, with one process more."""
    main(arguments(folder, out, "--processes", "1")[len(COMMAND) :])


def parts(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("part-*"))}


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_and_continued_writes_the_same_parts(folder: Path, times: int) -> None:
    out = folder / f"killed-{times}"
    for _ in range(times):
        before = len(parts(out))
        running = subprocess.Popen(arguments(folder, out.name), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        kill(running, out, before + 1)
    kept = {file: file.stat().st_mtime_ns for file in out.glob("part-*")}
    assert len(kept) < len(parts(folder / "whole")), "it was finished before the last kill"
    finish(folder, out.name)
    assert parts(out) == parts(folder / "whole")
    assert kept == {file: file.stat().st_mtime_ns for file in kept}, "a part was written twice"
    assert sorted(map(int, pyarrow.dataset.dataset(out).to_table()["id"].to_pylist())) == list(range(ROWS))
    assert not list(out.glob("_part-*"))


def kill(running: "subprocess.Popen[bytes]", out: Path, count: int) -> None:
    """Kill a run once it has written `count` parts; its processes must end by themselves."""
    until(lambda: len(parts(out)) >= count or running.poll() is not None)
    left = children(running.pid)
    running.send_signal(signal.SIGKILL)
    running.wait()
    until(lambda: not any(map(alive, left)))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_with_a_sentence(folder: Path) -> None:
    running = subprocess.Popen(arguments(folder, "died"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    until(lambda: len(parts(folder / "died")) > 1 or running.poll() is not None)
    for child in children(running.pid):
        if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
            os.kill(child, signal.SIGKILL)
            break
    _, told = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "one of 2 processes was killed" in told and "Traceback" not in told
    finish(folder, "died")
    assert parts(folder / "died") == parts(folder / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_continue(
    folder: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it works, a second run in its folder is refused and leaves the first one unharmed."""
    out = f"stopped-{number}"
    running = subprocess.Popen(arguments(folder, out), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    until(lambda: parts(folder / out) or running.poll() is not None)
    running.send_signal(signal.SIGSTOP)
    second = refused(capsys, *arguments(folder, out)[len(COMMAND) :])
    assert f"{folder / out} is being written by another process, expected one at a time" in second
    left = children(running.pid)
    running.send_signal(number)
    running.send_signal(signal.SIGCONT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    assert f"the answers in {folder / out} stay, and the same command continues" in told and "Traceback" not in told
    until(lambda: not any(map(alive, left)))


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return the error of the command, which ends with status 1, or 2 for arguments that cannot be parsed."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code in (1, 2)
    return capsys.readouterr().err


def test_a_finished_run_does_nothing_and_another_job_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in (folder / "whole").iterdir() if file.name != ".lock"}
    words = arguments(folder, "whole")[len(COMMAND) :]
    main(words)
    assert capsys.readouterr().out.startswith(f"already finished: {ROWS:,} rows")
    assert before == {file: file.stat().st_mtime_ns for file in before}
    for more, sentence in (
        (["--head", "topic"], 'head was "sentiment" and is "topic" now'),
        (["--set", "top_k=1"], 'parameters was {} and is {"top_k": 1} now'),
        (["--format", "jsonl"], 'format of the answers was "parquet" and is "jsonl" now'),
        (["--keep", "id2"], "keep was"),
    ):
        told = refused(capsys, *words, *more)
        assert sentence in told and "name another --out" in told


def test_a_file_that_changed_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    words = [str(rows), "--bundle", str(folder / "bundle"), "--head", "sentiment", "--out", str(tmp_path / "out")]
    rows.write_text('{"text": "cat"}\n')
    main([*words, "--processes", "1"])
    rows.write_text('{"text": "dog"}\n')
    assert "the file rows.jsonl has changed since" in refused(capsys, *words)


def test_what_is_wrong_is_one_sentence_before_the_work(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    good: dict[str, Any] = {"--bundle": folder / "bundle", "--head": "sentiment", "--out": tmp_path / "out"}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"--bundle": tmp_path / "none"}, "is not a directory, expected a bundle"),
        ({"--head": "sentimant"}, "there is no head 'sentimant', expected one of fill-mask, ner"),
        ({"--head": None}, "choose one with --head"),
        ({"--out": tmp_path / "full"}, "holds thesis.txt, which this command did not write"),
        ({"--set": "topk=3"}, "topk"),
        ({"--set": "top_k=0"}, "parameters.top_k: is 0"),
        ({"--set": "top_k"}, "expected KEY=VALUE"),
        ({"--columns": "text=body"}, "body"),
        ({"--route": "zero-shot"}, "route"),
        ({"--keep": "answer"}, "a column of this name already"),
        ({"--processes": "0"}, "is not a whole number, 1 or more"),
    ]
    for changes, sentence in cases:
        flags = [part for flag, value in (good | changes).items() if value for part in (flag, value)]
        assert sentence in refused(capsys, folder / "rows.jsonl", *flags), changes
        assert not (tmp_path / "out").exists()


def modules_of(*extras: str) -> set[str]:
    """Return the modules that some of our extras install; "" stands for what is always installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"": project["dependencies"], **project["optional-dependencies"]}
    names = {canonicalize_name(Requirement(each).name) for extra in extras for each in wanted[extra]}
    found = packages_distributions().items()
    return {module for module, owners in found if names & {canonicalize_name(owner) for owner in owners}}


def test_it_needs_nothing_of_training(folder: Path, tmp_path: Path) -> None:
    """The command and its processes run without any package that only training needs."""
    missing = modules_of("train") - modules_of("", "cpu", "score") | {"transformers"}
    assert {"torch", "onnx", "safetensors", "sklearn", "matplotlib", "rich"} <= missing
    for name in missing:
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError({name!r}, name={name!r})\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the cat"}\n' * 2000)
    words = [*COMMAND, str(rows), "--bundle", str(folder / "bundle"), "--head", "sentiment", "--processes", "1"]
    environment = ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    done = subprocess.run([*words, "--out", tmp_path / "out"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "2,000 rows" in done.stdout, done.stderr


def test_a_missing_package_is_one_sentence_that_names_the_extra() -> None:
    code = "import sys; sys.modules['pyarrow'] = None; from training.scoring.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: pyarrow is not installed, expected the extra score: pip install 'bertheads[score]'\n"


def test_a_file_in_another_encoding_is_called_so_and_not_a_wrong_column(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_bytes(b"id;text\n" + "".join(f"{n};café {n}\n" for n in range(150)).encode("cp1252"))
    words = ["--bundle", folder / "bundle", "--head", "sentiment", "--out", tmp_path / "out"]
    told = refused(capsys, rows, *words)
    assert "rows.csv:2: " in told and "is not UTF-8" in told and "iconv -f WINDOWS-1252" in told


def test_a_route_that_no_head_answers_is_named_with_those_that_are(tmp_path: Path) -> None:
    predictor: Any = SimpleNamespace(heads={"mood": HeadSpec("classify", ["bad", "good"])})
    assert head_of(None, "classify", predictor) == "mood"
    with pytest.raises(DataError, match=r"--route tag: no head of the bundle answers it, .* one of mood \(classify\)"):
        head_of(None, "tag", predictor)


def test_the_command_that_shows_answers_is_one_that_a_shell_runs(tmp_path: Path) -> None:
    """Also for a folder whose name has quotes and spaces."""
    out = tmp_path / 'my "best" answers'
    out.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"]}), out / "part.parquet")
    job: Any = SimpleNamespace(out=out, form="parquet")
    told = finished(job, Outcome(rows=1)).rpartition("see them with: python ")[2]
    done = subprocess.run(f"{shlex.quote(sys.executable)} {told}", shell=True, capture_output=True, text=True)
    assert done.stdout == "[{'id': 'a'}]\n", done.stderr
