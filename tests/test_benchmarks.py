"""If this breaks, the benchmark measures something else than it says: requests lost, figures that do not add up."""

import json
from pathlib import Path

import pytest

from models.checkpoint import write_checkpoint
from models.tokenizer import Tokenizer
from tests.benchmarks.__main__ import main
from tests.models.bundles import checkpoint
from tests.service.bundles import HEADS, write_bundle

ROUNDS, CONNECTIONS = 2, [1, 3]


def test_every_request_of_every_contender_is_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    bundle, out = write_bundle(tmp_path / "tiny", tokenizer), tmp_path / "report.json"
    write_checkpoint(checkpoint(tokenizer), tmp_path / "checkpoint")
    options = f"--bundle {bundle} --checkpoint {tmp_path}/checkpoint --json {out} --seconds 0.2 --rounds {ROUNDS}"
    assert main([*options.split(), "--connections", *map(str, CONNECTIONS)]) == 0
    report = json.loads(out.read_text())
    names = ["bertheads", "naive", "raw"]
    expected = [(count, name) for count in CONNECTIONS for _ in range(ROUNDS) for name in names]
    assert [(run["connections"], run["contender"]) for run in report["runs"]] == expected
    for run in report["runs"]:
        assert run["requests"] >= run["connections"] and 0 < run["p50"] <= run["p95"] <= run["p99"]
        if run["contender"] == "bertheads":
            assert run["rows"] == run["requests"] and 1 <= run["rows_a_batch"] <= run["connections"]
    for middle in report["medians"]:
        group = [run for run in report["runs"] if all(run[key] == middle[key] for key in ("contender", "connections"))]
        assert middle["rate"] == pytest.approx(sum(run["rate"] for run in group) / ROUNDS)
        assert middle["ratio"] == 1 or middle["contender"] != "bertheads"


def test_what_cannot_be_measured_is_said_in_one_sentence(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_bundle(tmp_path / "pairs", tokenizer, {"nli": HEADS["nli"]})
    bundle = write_bundle(tmp_path / "tiny", tokenizer)
    (tmp_path / "empty.jsonl").touch()
    for options, sentence in (
        (f"--bundle {tmp_path}/none", "none is not a directory"),
        (f"--bundle {pairs}", "pairs has no classify head"),
        (f"--bundle {bundle} --texts {tmp_path}/empty.jsonl", "empty.jsonl is not JSON lines"),
        (f"--bundle {bundle} --checkpoint {tmp_path}/none", "none/config.json does not exist"),
    ):
        assert main(options.split()) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
