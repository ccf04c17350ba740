"""Stores a random sample of answered inputs as JSON lines, for people to label. Off unless a file is configured.

A line is training data without a label. `prediction` holds the answer, in the format of the label that a person will
put in its place; `sample` says where the line comes from. Lines go into a bounded queue, and a thread writes them, so a
slow disk does not block requests. The file is opened again for each line, so it can be moved away at any time. Several
workers share it, under a lock.
"""

import errno
import fcntl
import logging
import os
import random
import stat
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from models.bio import split_label
from models.classification import PairInput
from models.observation import given_labels
from models.qa import QuestionInput
from models.task import HeadSpec
from models.task_registry import best_answer
from service.errors import SettingsError
from service.settings import Settings

if TYPE_CHECKING:
    from service.inference import Call
    from service.metrics import Metrics

logger = logging.getLogger(__name__)

MODE = 0o600
OUTSIDE = "O"
"""The tag of a word outside all spans."""
MAX_WAITING_BYTES = 8 << 20
"""Maximum bytes of lines that wait to be written."""
MAX_CLOSE_SECONDS = 1.0
"""Maximum seconds that an exit waits for a slow disk."""
FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Samples:
    """Chooses inputs at random, and passes them to a thread that writes them."""

    def __init__(self, settings: Settings, metrics: "Metrics") -> None:
        assert settings.sample_file
        self._share = settings.sample_percent / 100
        self._file = SampleFile(settings.sample_file, settings.sample_max_bytes)
        self._metrics = metrics
        self._random = random.Random()
        self._waiting: SimpleQueue[bytes | None] = SimpleQueue()
        self._bytes = 0
        """Bytes of the lines that wait."""
        self._lock = threading.Lock()
        self._told = ""
        """The last failure that was logged; empty if the last line was written."""
        self._writer = threading.Thread(target=self._write_all, name="samples", daemon=True)
        self._writer.start()

    def take(self, call: "Call", answers: Sequence[Any], request_id: str) -> None:
        """Queue a random share of a call's inputs, without any system call.

        Inputs on other routes than that of the head's task are skipped, since they are not training data for it.
        """
        if call.route != call.head.spec.task:
            return
        for item, answer in zip(call.inputs, answers, strict=True):
            if self._random.random() < self._share:
                self._put(to_json(record(call, item, answer, request_id)) + b"\n")

    def close(self) -> None:
        """Write the queued lines, and end the thread."""
        self._waiting.put(None)
        self._writer.join(MAX_CLOSE_SECONDS)

    def _put(self, line: bytes) -> None:
        with self._lock:
            fits = self._bytes + len(line) <= MAX_WAITING_BYTES
            self._bytes += len(line) if fits else 0
        if fits:
            self._waiting.put(line)
        else:
            self._metrics.samples.labels("busy").inc()

    def _write_all(self) -> None:
        while (line := self._waiting.get()) is not None:
            result, sentence = self._file.append(line)
            with self._lock:
                self._bytes -= len(line)
            self._metrics.samples.labels(result).inc()
            if sentence and result != self._told:
                logger.error("inputs are no longer stored: %s", sentence)
            elif self._told and not sentence:
                logger.info("inputs are stored in %s again", self._file.path)
            self._told = result if sentence else ""


class SampleFile:
    """A file of lines that never exceeds `max_bytes` and contains only complete lines."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes

    def append(self, line: bytes) -> tuple[str, str]:
        """Append a line; return the result as a label of the metric, and an error message (empty if written)."""
        try:
            descriptor = self._open()
        except OSError as error:
            return "failed", self._sentence(error)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size + len(line) >= self._max_bytes:
                return "full", f"{self.path} has {size} of {self._max_bytes} bytes; move it away, or raise the limit"
            self._write(descriptor, line, size)
            return "written", ""
        except OSError as error:
            return "failed", self._sentence(error)
        finally:
            os.close(descriptor)

    def check(self) -> None:
        """Create the file if it is missing; raise SettingsError if it cannot be written."""
        try:
            os.close(self._open())
        except OSError as error:
            raise SettingsError(
                f"--sample-file (BERTHEADS_SAMPLE_FILE): {self._sentence(error)}; name a file in a directory that the "
                "service may write, or leave the setting out"
            ) from None

    def _open(self) -> int:
        """Open the file, and make it accessible to its owner only, however it was created."""
        descriptor = os.open(self.path, FLAGS, MODE)
        try:
            found = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(found):
                raise OSError(errno.EINVAL, "not a regular file")
            if stat.S_IMODE(found) != MODE:
                os.fchmod(descriptor, MODE)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _write(self, descriptor: int, line: bytes, size: int) -> None:
        """Write a complete line; if the disk is full after a part of it, remove that part.

        If the file does not end with a newline, as after editing, add one first.
        """
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        try:
            if (written := os.write(descriptor, line)) < len(line):
                raise OSError(errno.ENOSPC, f"no space left: only {written} of {len(line)} bytes were written")
        except OSError:
            os.ftruncate(descriptor, size)
            raise

    def _sentence(self, error: OSError) -> str:
        reason = "a symbolic link" if error.errno == errno.ELOOP else error.strerror
        return f"{self.path} cannot be written ({reason})"


def check(settings: Settings) -> None:
    """Raise SettingsError if the configured sample file cannot be written."""
    if settings.sample_file:
        SampleFile(settings.sample_file, settings.sample_max_bytes).check()


def announce(settings: Settings) -> None:
    """Log at the start that inputs are stored, and where."""
    if settings.sample_file:
        sentence = "inputs are being stored: %g %% of those that are answered go to %s, up to %d bytes"
        logger.warning(sentence, settings.sample_percent, settings.sample_file, settings.sample_max_bytes)


# ---- lines -----------------------------------------------------------------------------------------------------------


def record(call: "Call", item: Any, answer: Any, request_id: str) -> dict[str, Any]:
    """Return the line of an input: its texts as training data, the answer, and where it comes from."""
    best = best_answer(answer)
    about = {
        "score": best.get("score") if best else None,
        "head": call.head.name,
        "bundle": call.head.bundle_name,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": request_id,
    }
    return {**_texts(item), "prediction": _prediction(call, item, answer), "sample": about}


def _texts(item: Any) -> dict[str, Any]:
    """Return an input in the fields of training data."""
    if isinstance(item, PairInput):
        return {"text_a": item.text, "text_b": item.text_pair}
    if isinstance(item, QuestionInput):
        return {"question": item.question, "context": item.context}
    return {"tokens": item} if isinstance(item, list) else {"text": item}


def _prediction(call: "Call", item: Any, answer: Any) -> Any:
    """Return an answer in the format of a training label; None if there is none."""
    head, best = call.head.spec, best_answer(answer)
    if head.task == "tag":
        units = answer["spans"] if isinstance(answer, dict) else answer
        return _tags(head, item, units) if isinstance(item, list) else _spans(units)
    if head.task == "qa":
        found = [best] if best and best["answer"] else []
        return {"text": [one["answer"] for one in found], "answer_start": [one["start"] for one in found]}
    if head.problem_type == "multi_label_classification":
        every = answer[-1] if answer and isinstance(answer[-1], list) else answer  # a request for all scores
        function = getattr(call.parameters, "function_to_apply", None) or head.function
        return given_labels(head, every) if function == "sigmoid" else None
    if best is None:
        return None
    if head.problem_type == "regression":
        return best["score"]
    return best["token_str"] if head.task == "fill-mask" else best["label"]


def _spans(units: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Return [start, end, type] of each span; join words that were tagged one by one into spans."""
    spans: list[list[Any]] = []
    for unit in units:
        label = unit.get("entity_group") or unit["entity"]
        kind = split_label(label)[1]
        if label.startswith("I-") and spans and spans[-1][2] == kind:
            spans[-1][1] = unit["end"]
        else:
            spans.append([unit["start"], unit["end"], kind])
    return spans


def _tags(head: HeadSpec, words: Sequence[str], units: Sequence[dict[str, Any]]) -> list[str]:
    """Return a tag for each word."""
    tags = [OUTSIDE] * len(words)
    for unit in units:
        if "entity" in unit:
            tags[unit["index"]] = unit["entity"]
            continue
        kind = unit["entity_group"]
        begins, goes_on = (f"B-{kind}", f"I-{kind}") if f"B-{kind}" in head.labels else (kind, kind)
        count = unit["end_index"] - unit["index"]
        tags[unit["index"] : unit["end_index"]] = [begins, *[goes_on] * (count - 1)]
    return tags
