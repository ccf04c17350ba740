"""A limit on the logits that are kept in memory between the engine and decoding."""

from collections.abc import Iterator
from contextlib import contextmanager

from models.task import MAX_LOGITS
from service.errors import FieldError, Unprocessable, queue_full


class Keeper:
    """Counts the logits that a process keeps; several processes share MAX_LOGITS."""

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        self._logits = 0

    @contextmanager
    def keeping(self, logits: int) -> Iterator[None]:
        """Count logits from before they are computed until they are decoded.

        If no others are kept, a single request may have up to MAX_LOGITS. Raises QueueFull if others leave too little
        room, and Unprocessable for more than MAX_LOGITS.
        """
        share = MAX_LOGITS // self._processes
        if logits > MAX_LOGITS:
            message = f"makes {logits} scores, but at most {MAX_LOGITS} are kept at a time; send fewer texts or masks"
            raise Unprocessable([FieldError("inputs", message)])
        if self._logits and self._logits + logits > share:
            reason = f"{self._logits} scores are kept, and {logits} more would exceed {share}"
            raise queue_full(reason, self._wait())
        self._logits += logits
        try:
            yield
        finally:
            self._logits -= logits

    def _wait(self) -> float:
        """Return the seconds until all rows that wait now are computed."""
        raise NotImplementedError
