"""One request from its bytes to the bytes of its answer: tokenize, queue, encode, decode, each timed.

Nothing that this process made itself is validated again, and only long texts leave the event loop.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from models.errors import InputError
from models.row import Encoded
from models.task import TaskName
from models.tokenizer import LONG
from service.body import LONG_BODY, Call, parse_call, parse_json, place, read_body
from service.errors import BadRequest, ClientGone, DeadlinePassed, FieldError, SlowRequest, Unprocessable
from service.gate import Trace, trace_of
from service.heads import Head
from service.lifecycle import Service
from service.metrics import Metric
from service.queue import Deadline, Job, Logits

Result = TypeVar("Result")

LARGE_LOGITS = 50_000
"""Logits, or tokens times ten, from which decoding leaves the event loop."""
MOST_ANSWERED = 4_000_000
"""Tokens of text that an answer may repeat: some 20 MB."""
DEADLINE_HEADER = "x-deadline-ms"


@dataclass(slots=True)
class Timing:
    """Seconds of each stage."""

    tokenize: float = 0.0
    queue: float = 0.0
    encode: float = 0.0
    decode: float = 0.0

    def header(self) -> str:
        """Return the value of Server-Timing, in milliseconds."""
        return ", ".join(f"{stage};dur={getattr(self, stage) * 1000:.2f}" for stage in self.__slots__)


class Inference:
    """Answers one request."""

    def __init__(self, service: Service, head: Head, trace: Trace, deadline: Deadline) -> None:
        self.service = service
        self.head = head
        self.trace = trace
        self.deadline = deadline
        self.timing = Timing()

    async def answer(self, request: Request) -> Response:
        """Read, compute, answer."""
        with self.service.bodies.one() as count:
            return await self._answer(request, await self._read(request, count))

    async def _answer(self, request: Request, call: Call) -> Response:
        # Once the body is there, the connection has nothing more to say than that its client left.
        watch = asyncio.ensure_future(request.receive())
        try:
            encoded = await self._tokenize(call)
            if watch.done():
                raise ClientGone("the client left before its request was queued")
            with self.service.engine.keeping(self._logits(encoded)):
                logits = await self._encode(encoded, watch)
                answers = await self._decode(call, encoded, logits)
        finally:
            watch.cancel()
        self.service.shadow.compare(self.head, call.inputs, call.parameters, answers)
        return self._respond(call, encoded, answers)

    async def _read(self, request: Request, count: Callable[[int], None]) -> Call:
        try:
            async with asyncio.timeout(self._left()):
                body = await read_body(request.headers, request.receive, self.service.settings.max_body_bytes, count)
        except TimeoutError:
            sentence = f"the body did not arrive within the deadline of {self.deadline.seconds:g} s"
            raise SlowRequest(sentence, field="body", headers={"Connection": "close"}) from None
        document = await self._aside(len(body) > LONG_BODY, "parse", lambda: parse_json(body))
        call = parse_call(document, self.head, self.service.settings)
        if len(body) > LONG_BODY:
            count(max(0, call.size - len(body)))
        return call

    async def _tokenize(self, call: Call) -> list[Encoded[Any]]:
        started = time.monotonic()
        encoded = await self._aside(call.characters > LONG, "tokenize", lambda: self._encode_inputs(call))
        self.timing.tokenize = time.monotonic() - started
        return encoded

    def _encode_inputs(self, call: Call) -> list[Encoded[Any]]:
        limit, tokens, answered = self.service.settings.max_queued_tokens, 0, 0
        encoded: list[Encoded[Any]] = []
        for index, item in enumerate(call.inputs):
            try:
                encoded.append(self.head.task.encode(item, call.parameters))
            except InputError as error:
                raise InputError(place(error.field, index) if call.is_list else error.field, error.message) from None
            tokens += sum(len(row.input_ids) for row in encoded[-1].rows)
            if tokens > limit:
                message = (
                    f"makes more than {limit} tokens, windows included, which is all that may wait at a time; send less"
                )
                raise Unprocessable([FieldError("inputs", message)])
            answered += self.head.task.answer_tokens(encoded[-1], call.parameters)
            if answered > MOST_ANSWERED:
                message = f"asks for more than {MOST_ANSWERED} tokens of text; send fewer texts, or lower top_k"
                raise Unprocessable([FieldError("inputs", message)])
            self._check_deadline("tokenize")
        return encoded

    def _logits(self, encoded: list[Encoded[Any]]) -> int:
        return self.head.width * sum(len(row.positions) for item in encoded for row in item.rows)

    async def _encode(self, encoded: list[Encoded[Any]], watch: "asyncio.Future[Any]") -> list[Logits]:
        engine = self.service.engine
        rows = [row for item in encoded for row in item.rows]
        job = engine.submit(self.head.session, self.head.name, rows, self.deadline)
        watch.add_done_callback(lambda _: engine.give_up(job, "client_gone", ClientGone("the client left")))
        timer = asyncio.get_running_loop().call_later(self._left(), engine.expire, job)
        try:
            logits = await job.future
        except asyncio.CancelledError:
            engine.give_up(job, "draining", ClientGone("the server cut the connection"))
            raise
        finally:
            timer.cancel()
        self._time(job)
        return logits

    async def _decode(self, call: Call, encoded: list[Encoded[Any]], logits: list[Logits]) -> list[Any]:
        started = time.monotonic()
        size = sum(each.size for each in logits) + 10 * sum(len(row.input_ids) for item in encoded for row in item.rows)
        size += sum(self.head.task.answer_tokens(item, call.parameters) for item in encoded)
        answers = await self._aside(size > LARGE_LOGITS, "decode", lambda: self._decode_all(call, encoded, logits))
        self.timing.decode = time.monotonic() - started
        return answers

    def _decode_all(self, call: Call, encoded: list[Encoded[Any]], logits: list[Logits]) -> list[Any]:
        rest = iter(logits)
        answers = []
        for item in encoded:
            self._check_deadline("decode")
            of_item = np.concatenate([next(rest) for _ in item.rows])
            answers.append(self.head.task.decode(item, of_item, call.parameters))
        return answers

    async def _aside(self, heavy: bool, stage: str, work: Callable[[], Result]) -> Result:
        """Run work here if it is light, else on a thread until the deadline."""
        if not heavy:
            return work()
        try:
            async with asyncio.timeout(self._left()):
                return await asyncio.get_running_loop().run_in_executor(self.service.texts, work)
        except TimeoutError:
            self.service.metrics.dropped.labels("deadline").inc()
            raise DeadlinePassed(stage, self.deadline.seconds) from None

    def _check_deadline(self, stage: str) -> None:
        if self._left() < 0:
            raise DeadlinePassed(stage, self.deadline.seconds)

    def _left(self) -> float:
        return self.deadline.at - time.monotonic()

    def _time(self, job: Job) -> None:
        self.timing.queue = job.started_at - job.queued_at
        self.timing.encode = job.finished_at - job.started_at
        self.trace.log["tokens"] = job.tokens
        self._series(self.service.metrics.tokens).inc(job.tokens)

    def _respond(self, call: Call, encoded: list[Encoded[Any]], answers: list[Any]) -> Response:
        headers = {"Server-Timing": self.timing.header(), "X-Bundle": self.head.bundle_name}
        cut = sum(item.truncated for item in encoded)
        if cut:
            headers["X-Truncated"] = str(cut)
        self._measure(encoded, answers)
        # The classifiers answer a single text with a list too: Hugging Face clients read response[0].
        nested = call.is_list or self.head.spec.task in ("classify", "pair")
        body = json.dumps(answers if nested else answers[0], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return Response(body.encode(), media_type="application/json", headers=headers)

    def _measure(self, encoded: list[Encoded[Any]], answers: list[Any]) -> None:
        metrics = self.service.metrics
        for stage in Timing.__slots__:
            metrics.series(metrics.stage, stage, self.head.name).observe(getattr(self.timing, stage))
        self._series(metrics.inputs).inc(len(encoded))
        for item in encoded:
            if item.truncated:
                self._series(metrics.truncated_inputs).inc()
                self._series(metrics.truncated_tokens).inc(item.truncated)
        confidence = self._series(metrics.confidence)
        for score in top_scores(answers):
            confidence.observe(score)

    def _series(self, metric: Metric) -> Metric:
        return self.service.metrics.series(metric, self.head.name)


def top_scores(answers: list[Any]) -> list[float]:
    """Return the score of the first answer to each input that has one, without raw scores."""
    scores: list[float] = []
    for answer in answers:
        best = answer
        while isinstance(best, list) and best:
            best = best[0]
        if isinstance(best, dict) and 0.0 <= best["score"] <= 1.0:
            scores.append(best["score"])
    return scores


def deadline_seconds(request: Request, limit: float) -> float:
    """Return the seconds that a request gets: the client's X-Deadline-Ms, if it asks for less than the limit."""
    given = request.headers.get(DEADLINE_HEADER)
    if given is None:
        return limit
    if not given.isdecimal() or not 1 <= int(given[:12]) or len(given) > 12:
        raise BadRequest(f"X-Deadline-Ms is {given[:40]!r}; send whole milliseconds, from 1", field="X-Deadline-Ms")
    return min(limit, int(given) / 1000)


async def infer(request: Request, task: TaskName, named: str | None) -> Response:
    """Answer POST /{task} and /{task}/{head}."""
    service: Service = request.app.state.service
    trace = trace_of(request.scope)
    trace.route = f"/{task}" if named is None else f"/{task}/{{head}}"
    head = service.heads_for(request.headers, trace.request_id).find(task, named)
    trace.head = trace.log["head"] = head.name
    seconds = deadline_seconds(request, service.settings.deadline)
    deadline = Deadline(trace.started + seconds, seconds)
    service.engine.check_room(0, deadline)  # before anything is spent on it
    return await Inference(service, head, trace, deadline).answer(request)
