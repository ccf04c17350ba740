"""The shadow: a bundle that answers the same requests again, only to count where its answers differ."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from models.task import Strict
from models.task_registry import AnyTask, best_answer
from service.heads import Head
from service.queue import Deadline

if TYPE_CHECKING:
    from service.inference import Call
    from service.lifecycle import Service

logger = logging.getLogger(__name__)


class Shadow:
    """Compares one request at a time, and only while nothing else waits, so that clients do not notice."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._running: asyncio.Task[None] | None = None

    def compare(self, call: "Call", answers: Sequence[Any]) -> None:
        """Start to compare the answers with the shadow's; do nothing if it is busy or has no such head."""
        loaded = self._service.heads.shadow
        others = loaded.heads if loaded else ()
        other = next((each for each in others if each.name == call.head.name and call.route in each.ways), None)
        busy = self._service.engine.waiting or (self._running and not self._running.done())
        if other and not busy:
            self._running = asyncio.create_task(self._compare(other, call, answers))

    async def _compare(self, head: Head, call: "Call", answers: Sequence[Any]) -> None:
        metrics, task = self._service.metrics, head.ways[call.route]
        if call.task is not call.head.ways[call.route]:  # the task is wrapped, so wrap the shadow's too
            task = type(call.task)(task)  # type: ignore[arg-type,call-arg]
        try:
            found = await self._answer(head, task, call.inputs, call.parameters)
        except Exception as error:  # a failure of the shadow must not affect anything else
            logger.warning("the shadow of head %s failed: %s", head.name, error)
            return
        for ours, theirs in zip(answers, found, strict=True):
            metrics.shadow_inputs.labels(head.name).inc()
            metrics.shadow_disagreements.labels(head.name).inc(gist(ours) != gist(theirs))
            metrics.shadow_difference.labels(head.name).observe(abs(_score(ours) - _score(theirs)))

    async def _answer(self, head: Head, task: AnyTask, inputs: Sequence[Any], parameters: Strict) -> list[Any]:
        loop, service = asyncio.get_running_loop(), self._service
        encoded = await loop.run_in_executor(service.texts, lambda: [task.encode(item, parameters) for item in inputs])
        rows = [(head.name, row) for item in encoded for row in item.rows]
        with service.engine.keeping(head.width * sum(len(row.positions) for _, row in rows)):
            seconds = service.settings.deadline
            job = service.engine.submit(head.session, rows, Deadline(time.monotonic() + seconds, seconds))
            rest = iter(await job.future)
            logits = [np.concatenate([next(rest) for _ in item.rows]) for item in encoded]
            pairs = list(zip(encoded, logits, strict=True))
            return await loop.run_in_executor(
                service.texts, lambda: [task.decode(item, each, parameters) for item, each in pairs]
            )


def gist(answer: Any) -> Any:
    """Return the content of an answer without its scores: all spans, or the best of ranked answers."""
    if isinstance(answer, dict):
        return {key: gist(value) for key, value in answer.items() if key != "score"}
    if isinstance(answer, list) and answer and isinstance(answer[0], dict) and "start" not in answer[0]:
        return gist(answer[0])
    return [gist(part) for part in answer] if isinstance(answer, list) else answer


def _score(answer: Any) -> float:
    """Return the score of the best answer; 0 if there is none."""
    best = best_answer(answer)
    return float(best["score"]) if best else 0.0
