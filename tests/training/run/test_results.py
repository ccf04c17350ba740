"""If these fail, the end of a run does not say what came out, where it is, or what to type next."""

import json
import shlex
from pathlib import Path

from training.__main__ import build_parser
from training.run.results import results


def run(out: Path, *records: dict[str, float]) -> Path:
    out.mkdir()
    (out / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return out


def test_the_line_has_figures_the_place_and_a_command_that_parses(tmp_path: Path) -> None:
    first = {"step": 20, "loss/nli": 1.0, "validation/nli/accuracy": 0.4, "validation/nli/accuracy_chance": 0.3}
    last = {"step": 40, "loss/nli": 0.9, "validation/nli/accuracy": 0.512, "validation/nli/macro_f1": 0.5}
    heads = {"validation/ner/f1": 0.25, "validation/stars/pearson": 0.9, "loss/qa": 2.345}
    out = run(tmp_path / "my run", first, last | heads)
    line = results(out)
    figures = "nli accuracy 51.2%, ner f1 25.0%, stars pearson 0.900, qa training loss 2.35"
    assert line.startswith(f"{out}: 40 steps; {figures}; curves: {out}/metrics.jsonl; next: ") and "\n" not in line
    words = shlex.split(line.partition("next: ")[2])
    arguments = build_parser("export").parse_args(words[3:])
    assert words[:3] == ["python", "-m", "training"] and arguments.checkpoint == out
    assert arguments.out == tmp_path / "my run-bundle"


def test_a_run_without_figures_says_so(tmp_path: Path) -> None:
    out = run(tmp_path / "run", {"step": 5, "lr": 0.1})
    (out / "metrics.png").touch()
    assert "5 steps; no figures; curves: " in results(out) and "metrics.png; next" in results(out)
