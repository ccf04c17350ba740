"""What a run prints: its progress on standard error, and one line at its end."""

import json
import shlex
import time
from collections.abc import Iterable

from tqdm import tqdm

from training.run.progress import bar_file, columns, count_of, interval
from training.scoring.job import Job
from training.scoring.outcome import Outcome
from training.scoring.scorer import Summary

BAR = "{desc} {percentage:3.0f}%|{bar:8}| {remaining} left"
MAX_ERROR = 100
"""Maximum characters of an error in the last line."""


class Progress:
    """The progress of a run: rows and rows/s count answers, and the time left follows from the bytes read."""

    def __init__(self, size: int) -> None:
        self.rows = 0
        self._size = size
        """Bytes of all files."""
        self._began = time.monotonic()

    @property
    def rate(self) -> float:
        """Rows per second of this run."""
        return self.rows / max(1e-9, time.monotonic() - self._began)

    def show(self, summaries: Iterable[Summary]) -> None:
        """Show the progress of a run until it ends; parts that already exist count as no work."""
        with tqdm(
            total=self._size,
            bar_format=BAR,
            smoothing=0.05,
            ncols=columns(),
            mininterval=interval(),
            file=bar_file(),
        ) as bar:
            for summary in summaries:
                self.rows += summary.rows
                if summary.rows:
                    bar.set_description_str(f"{self.rows:,} rows, {self.rate:,.0f} rows/s", refresh=False)
                    bar.update(summary.size)
                else:
                    bar.n, bar.initial = bar.n + summary.size, bar.initial + summary.size


def finished(job: Job, outcome: Outcome, rate: float | None = None) -> str:
    """Return one line about the answers in a folder, and the next command."""
    parts = [f"{outcome.rows:,} rows in {job.out}", _errors(outcome)]
    if outcome.repeated:
        ids = ", ".join(outcome.repeated_ids[:3])
        parts.append(f"{outcome.repeated:,} rows repeat the id of an earlier one ({ids})")
    if rate:
        parts.append(f"{rate:,.0f} rows/s")
    return f"{', '.join(parts)}; see them with: {_next(job)}"


def _errors(outcome: Outcome) -> str:
    if not outcome.errors:
        return "no errors"
    more = "; …" if outcome.errors > len(outcome.named) else ""
    named = "; ".join(error[:MAX_ERROR].rstrip() + ("…" if len(error) > MAX_ERROR else "") for error in outcome.named)
    return f"{count_of(outcome.errors, 'error')} ({named}{more})"


def _next(job: Job) -> str:
    if job.form == "jsonl":
        return f"head -n 3 {shlex.quote(str(job.out))}/part-*.jsonl"
    code = f"import pyarrow.parquet as p; print(p.read_table({json.dumps(str(job.out))}).slice(0, 3).to_pylist())"
    return f"python -c {shlex.quote(code)}"
