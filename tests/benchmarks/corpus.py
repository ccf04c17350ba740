"""Speed and memory of making a corpus: python -m tests.benchmarks.corpus FILE... --tokenizer DIR [--megabytes 100 400].

The documents of the files, again and again where there are too few, are written as JSON lines of each size, and
`python -m training corpus` reads them in a process of its own; its memory, workers included, is looked at ten times a
second. Memory that grows with the text, or beyond 1 GB, is a defect.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from tests.benchmarks.contenders import memory_bytes
from training.text.documents import Documents


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.corpus", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--tokenizer", required=True, type=Path, metavar="DIR")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 400], metavar="N", help="default: 100 400")
    options = parser.parse_args(arguments)
    for size in options.megabytes:
        with tempfile.TemporaryDirectory() as place:
            text = write_text(options.files, Path(place) / "text.jsonl", size * 10**6)
            sys.stdout.write(json.dumps(measure(text, options.tokenizer, Path(place) / "corpus")) + "\n")
            sys.stdout.flush()


def write_text(files: Sequence[Path], out: Path, size: int) -> Path:
    """Write documents until there are `size` bytes."""
    with out.open("w", encoding="utf8") as file:
        for path in cycle(files):
            for document in Documents([path]):
                file.write(json.dumps({"text": document.text}, ensure_ascii=False) + "\n")
                if file.tell() >= size:
                    return out
    return out


def measure(text: Path, tokenizer: Path, out: Path) -> dict[str, float]:
    """Return megabytes, their number per second, and the most memory of all processes [MB]."""
    command = [sys.executable, "-m", "training", "corpus", str(text), "--tokenizer", str(tokenizer), "--out", str(out)]
    began, most = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, memory_bytes(process.pid))
            time.sleep(0.1)
    seconds, megabytes = time.perf_counter() - began, text.stat().st_size / 1e6
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with status {process.returncode}; run it to see why")
    return {"megabytes": megabytes, "megabytes_a_second": megabytes / seconds, "memory_mb": most / 2**20}


if __name__ == "__main__":
    main()
