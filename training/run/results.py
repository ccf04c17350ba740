"""The line about a finished run: its steps, its figures, where they are, and the command that comes next."""

import shlex
from pathlib import Path

from training.run.plots import Name, read_curves

HEADLINES = ("f1", "micro_f1", "pearson", "accuracy")
"""The most important figure of a head is the first of these that it has."""
SHARES = ("f1", "micro_f1", "accuracy")
"""Figures that are printed in percent."""


def results(out: Path) -> str:
    """Return one line about the run in `out`; without validation data it has the training losses."""
    metrics, place = out / "metrics.jsonl", shlex.quote(str(out))
    drawn = read_curves(metrics)
    last = {Name.parse(key): values[-1] for key, (_, values) in drawn.items()}
    found = [figure for subject in dict.fromkeys(name.subject for name in last) for figure in _figure(last, subject)]
    steps = max((steps[-1] for steps, _ in drawn.values()), default=0)
    curves = next((path for path in (out / "metrics.png", metrics) if path.exists()), out)
    command = f"python -m training export {place} --out {shlex.quote(f'{out}-bundle')}"
    return f"{out}: {steps:,.0f} steps; {', '.join(found) or 'no figures'}; curves: {curves}; next: {command}"


def _figure(last: dict[Name, float], subject: str) -> list[str]:
    """Return the most important figure of a head, or its training loss, as text; [] if it has neither."""
    for key in HEADLINES:
        if subject and (value := last.get(Name(key, subject, True))) is not None:
            return [f"{subject} {key.replace('_', ' ')} {f'{value:.1%}' if key in SHARES else f'{value:.3f}'}"]
    loss = last.get(Name("loss", subject, False)) if subject else None
    return [] if loss is None else [f"{subject} training loss {loss:.3g}"]
