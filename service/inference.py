"""One request from its bytes to the bytes of its answer: tokenize, queue, encode, decode, each timed.

A route defines the model of its body, the calls to heads that the body makes, and the shape of the response. All other
steps are in this file and are the same for every route. Data that this process made itself is not validated again.
Only long texts are processed outside the event loop.
"""

import asyncio
import math
import sys
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from models.errors import InputError
from models.input_errors import at, place
from models.row import Encoded, Row
from models.session import Session
from models.task import Strict
from models.task_registry import AnyTask, RouteName, best_answer
from models.tokenizer import LONG
from service.errors import (
    SHUTTING_DOWN,
    BadRequest,
    ClientGone,
    DeadlinePassed,
    InferenceFailed,
    Unavailable,
)
from service.heads import Head, Heads
from service.lifecycle import Service
from service.metrics import Metric
from service.middleware import DEADLINE_HEADER, info_of
from service.queue import Deadline, Job, Logits
from service.request_body import JSON, LONG_BODY, check_values, read_body
from service.settings import Settings
from service.size import Size, all_texts, count_characters, count_decoded, count_logits, count_tokens

Result = TypeVar("Result")
Rows = list[list[Encoded[Any]]]
"""Encoded inputs, per call and per input of that call."""

LARGE_LOGITS = 50_000
"""Decoding runs on a thread, not on the event loop, above this many logits (or a tenth as many tokens)."""
NESTED = ("classify", "pair")
"""Routes that answer a single input with a list too: Hugging Face clients read response[0]."""
SEVERAL = "several"
"""Value of the label `head` for the stage times of a request that several heads answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asks one head to do."""

    head: Head
    route: RouteName
    task: AnyTask
    inputs: Sequence[Any]
    """Each is an instance of the task's `inputs`."""
    parameters: Strict
    is_list: bool
    """Whether the client sent a list: errors then name the item."""

    def shaped(self, answers: list[Any]) -> Any:
        """Return the answers, one per input, as clients read them."""
        return answers if self.is_list or self.route in NESTED else answers[0]


def call_of(head: Head, route: RouteName, inputs: Any, parameters: Strict, settings: Settings) -> Call:
    """Return the call for what a client sent as `inputs`; raise InputError if there are too many or one is too long."""
    task = head.ways[route]
    is_list = task.is_list(inputs, parameters)
    if is_list and not 1 <= len(inputs) <= settings.max_items:
        raise InputError("inputs", f"has {len(inputs)} items; send 1 to {settings.max_items} (BERTHEADS_MAX_ITEMS)")
    items = inputs if is_list else [inputs]
    for index, item in enumerate(items):
        text = " ".join(item) if isinstance(item, list) else item
        if isinstance(text, str) and (count := len(text)) > settings.max_characters:
            sentence = f"has {count} characters; at most {settings.max_characters} are allowed, so send it in parts"
            raise InputError(place("inputs", index) if is_list else "inputs", sentence)
    return Call(head, route, task, items, parameters, is_list)


class Plan(NamedTuple):
    """The calls that a body asks for, and how to respond with their answers."""

    calls: list[Call]
    respond: Callable[[list[list[Any]]], Response]
    """Makes the response. Its argument holds one list per call, with one JSON-ready answer per input."""


class Inference:
    """Computes the answer to one request."""

    def __init__(self, service: Service, request: Request, deadline: Deadline) -> None:
        self.service = service
        self.request = request
        self.info = info_of(request.scope)
        self.deadline = deadline
        self.small = True
        """Whether the body is so short that none of its texts can be long."""

    async def heads(self) -> Heads:
        """Return the heads for this request; while they load, wait for them."""
        await self.service.loaded(self.deadline)
        return self.service.heads_for(self.request.headers, self.info.request_id)

    def name(self, head: Head) -> None:
        """Set the name of the head in the log line and the metrics of this request."""
        self.info.head = self.info.log["head"] = head.name

    async def respond(
        self,
        plan: Callable[[bytes], Plan],
        media: Container[str] = JSON,
        check: Callable[[bytes], None] = check_values,
    ) -> Response:
        """Read the body, `check` that it is cheap to parse, run the calls that `plan` finds in it, and respond."""
        with self.service.bodies.one() as count:
            calls, respond = await self._plan(lambda body: _planned(body, check, plan), media, count)
            # After the body, the only message that can still come from the connection is that the client left.
            watch = asyncio.ensure_future(self.request.receive())
            try:
                encoded, answers = await self._compute(calls, watch)
            finally:
                watch.cancel()
        self._measure(calls, encoded, answers)
        for call, of_call in zip(calls, answers, strict=True):
            self.service.shadow.compare(call, of_call)
            if self.service.samples:
                self.service.samples.take(call, of_call, self.info.request_id)
        response = respond(answers)
        response.headers.update(self._headers(calls, encoded))
        return response

    async def _plan(self, plan: Callable[[bytes], Plan], media: Container[str], count: Callable[[int], None]) -> Plan:
        body = await read_body(self.request, self.deadline, self.service.settings.max_body_bytes, count, media)
        self.small = len(body) <= LONG
        planned = await self._aside(len(body) > LONG_BODY, "parse", lambda: plan(body))
        if len(body) > LONG_BODY:
            count(max(0, sum(map(sys.getsizeof, all_texts(planned.calls))) - len(body)))
        return planned

    async def _compute(self, calls: list[Call], watch: "asyncio.Future[Any]") -> tuple[Rows, list[list[Any]]]:
        encoded = await self._tokenize(calls)
        if self.info.span:
            self.info.attributes |= span_attributes(calls, encoded)
        if watch.done():
            raise ClientGone("the client left before its request was queued")
        with self.service.engine.keeping(count_logits(calls, encoded)):
            logits = await self._encode(calls, encoded, watch)
            return encoded, await self._decode(calls, encoded, logits)

    async def _tokenize(self, calls: list[Call]) -> Rows:
        started = time.monotonic()
        repeats = any(call.task.repeats for call in calls)
        heavy = repeats or (not self.small and count_characters(calls) > LONG)
        encoded = await self._aside(heavy, "tokenize", lambda: self._encode_calls(calls))
        self.info.stages["tokenize"] = started, time.monotonic()
        return encoded

    def _encode_calls(self, calls: list[Call]) -> Rows:
        size = Size(self.service.settings.max_queued_tokens)
        return [[self._encode_input(call, index, size) for index in range(len(call.inputs))] for call in calls]

    def _encode_input(self, call: Call, index: int, size: "Size") -> Encoded[Any]:
        self._check_deadline("tokenize")
        try:
            encoded = call.task.encode(call.inputs[index], call.parameters)
        except InputError as error:
            raise (at(error, index) if call.is_list else error) from None
        size.add(count_tokens(encoded), call.task.answer_tokens(encoded, call.parameters))
        return encoded

    async def _encode(self, calls: list[Call], encoded: Rows, watch: "asyncio.Future[Any]") -> list[list[Logits]]:
        """Run the rows of all calls: one job per encoder, in which rows that several heads share are computed once."""
        rows: dict[Session, list[tuple[str, Row]]] = {}
        for call, of_call in zip(calls, encoded, strict=True):
            rows.setdefault(call.head.session, []).extend(
                (call.head.name, row) for item in of_call for row in item.rows
            )
        jobs: dict[Session, Job] = {}
        try:
            for session, of_session in rows.items():
                jobs[session] = self._submit(session, of_session, watch)
            logits = {session: iter(await self._finished(job)) for session, job in jobs.items()}
        except BaseException:
            for job in jobs.values():  # no effect on a job that is done
                self.service.engine.give_up(job, "failed", ClientGone("another part of the request failed"))
            raise
        finally:
            self._time(list(jobs.values()))
        return [
            [next(logits[call.head.session]) for item in of_call for _ in item.rows]
            for call, of_call in zip(calls, encoded, strict=True)
        ]

    def _time(self, jobs: list[Job]) -> None:
        """Record how long the jobs waited and ran; a job that is not done was given up just now."""
        if not jobs:
            return
        now = time.monotonic()
        started = min(job.started_at or now for job in jobs)
        self.info.stages["queue"] = jobs[0].queued_at, started
        if started < now:
            self.info.stages["encode"] = started, max(job.finished_at or now for job in jobs)
        self.info.log["tokens"] = sum(job.tokens for job in jobs)

    def _submit(self, session: Session, rows: list[tuple[str, Row]], watch: "asyncio.Future[Any]") -> Job:
        engine = self.service.engine
        job = engine.submit(session, rows, self.deadline, self.info.weight, self.info.trace)
        watch.add_done_callback(lambda _: engine.give_up(job, "client_gone", ClientGone("the client left")))
        return job

    async def _finished(self, job: Job) -> list[Logits]:
        engine = self.service.engine
        timer = asyncio.get_running_loop().call_later(self._left(), engine.expire, job)
        try:
            return await job.future
        except asyncio.CancelledError:
            engine.give_up(job, "draining", ClientGone("the server cut the connection"))
            raise
        finally:
            timer.cancel()

    async def _decode(self, calls: list[Call], encoded: Rows, logits: list[list[Logits]]) -> list[list[Any]]:
        started = time.monotonic()
        work = list(zip(calls, encoded, logits, strict=True))
        heavy = sum(count_decoded(*each) for each in work) > LARGE_LOGITS
        answers = await self._aside(heavy, "decode", lambda: [self._decode_call(*each) for each in work])
        self.info.stages["decode"] = started, time.monotonic()
        return answers

    def _decode_call(self, call: Call, encoded: list[Encoded[Any]], logits: list[Logits]) -> list[Any]:
        rest = iter(logits)
        answers = []
        for item in encoded:
            self._check_deadline("decode")
            of_rows = [next(rest) for _ in item.rows]
            of_item = of_rows[0] if len(of_rows) == 1 else np.concatenate(of_rows)
            if not math.isfinite(of_item.sum()):
                raise InferenceFailed(f"head {call.head.name!r} computed a score that is not a number for this input")
            answers.append(call.task.decode(item, of_item, call.parameters))
        return answers

    async def _aside(self, heavy: bool, stage: str, work: Callable[[], Result]) -> Result:
        """Run light work here, and heavy work on a thread; raise DeadlinePassed if that takes too long."""
        if not heavy:
            return work()
        self.service.trim_soon()
        try:
            working = asyncio.get_running_loop().run_in_executor(self.service.texts, work)
        except RuntimeError:  # the thread pool was shut down while the engine computed
            raise Unavailable(SHUTTING_DOWN) from None
        try:
            async with asyncio.timeout(self._left()):
                return await working
        except TimeoutError:
            self.service.metrics.dropped.labels("deadline").inc()
            raise DeadlinePassed(stage, self.deadline.seconds) from None

    def _check_deadline(self, stage: str) -> None:
        if self._left() < 0:
            raise DeadlinePassed(stage, self.deadline.seconds)

    def _left(self) -> float:
        return self.deadline.at - time.monotonic()

    def _headers(self, calls: list[Call], encoded: Rows) -> dict[str, str]:
        bundles = dict.fromkeys(call.head.bundle_name for call in calls)
        headers = {"Server-Timing": self.info.server_timing, "X-Bundle": ", ".join(bundles)}
        if cut := sum(item.truncated for of_call in encoded for item in of_call):
            headers["X-Truncated"] = str(cut)
        return headers

    def _measure(self, calls: list[Call], encoded: Rows, answers: list[list[Any]]) -> None:
        metrics = self.service.metrics
        name = calls[0].head.name if len(calls) == 1 else SEVERAL
        for stage, (began, ended) in self.info.stages.items():
            metrics.series(metrics.stage, stage, name).observe(ended - began)
            if self.info.span:
                metrics.exemplars.note(metrics.stage, (stage, name), ended - began, self.info.trace)
        for call, of_call, answered in zip(calls, encoded, answers, strict=True):
            self._series(metrics.inputs, call).inc(len(of_call))
            self._series(metrics.tokens, call).inc(sum(map(count_tokens, of_call)))
            for item in of_call:
                if item.truncated:
                    self._series(metrics.truncated_inputs, call).inc()
                    self._series(metrics.truncated_tokens, call).inc(item.truncated)
            for score in top_scores(call.parameters, answered):
                self._series(metrics.confidence, call).observe(score)
            self.service.drift.count(call, of_call, answered)

    def _series(self, metric: Metric, call: Call) -> Metric:
        return self.service.metrics.series(metric, call.head.name)


def span_attributes(calls: list[Call], encoded: Rows) -> dict[str, object]:
    """Return the attributes that describe the inputs in the span of a request: number and length, never content."""
    items = [item for of_call in encoded for item in of_call]
    return {
        "bertheads.bundle": ", ".join(dict.fromkeys(call.head.bundle_name for call in calls)),
        "bertheads.items": len(items),
        "bertheads.tokens": sum(map(count_tokens, items)),
        "bertheads.truncated": sum(item.truncated for item in items),
    }


def json_response(answer: Any) -> Response:
    """Return a response with the answer as JSON."""
    return Response(to_json(answer), media_type="application/json")


def top_scores(parameters: Strict, answers: list[Any]) -> list[float]:
    """Return the score of the best answer to each input that has one; raw logits and numbers are left out."""
    if getattr(parameters, "function_to_apply", None) == "none":
        return []
    found = [best["score"] for answer in answers if (best := best_answer(answer)) and "score" in best]
    return [score for score in found if 0.0 <= score <= 1.0]


def start(request: Request) -> Inference:
    """Return the inference of a request; raise QueueFull under overload, before any work is done for it."""
    service, deadline = service_of(request), info_of(request.scope).deadline
    if deadline is None:  # the middleware has not checked whether there is room
        deadline = deadline_of(request, service.settings)
        service.engine.check_room(0, deadline)
    return Inference(service, request, deadline)


def service_of(request: Request) -> Service:
    """Return the service of the app that a request came to."""
    service: Service = request.app.state.service
    return service


def deadline_of(request: Request, settings: Settings) -> Deadline:
    """Return the deadline of a request: the client's X-Deadline-Ms or the service's own limit, whichever is sooner."""
    seconds, given = settings.deadline, request.headers.get(DEADLINE_HEADER)
    if given is not None:
        if not given.isdecimal() or not 1 <= int(given[:12]) or len(given) > 12:
            raise BadRequest(f"X-Deadline-Ms is {given[:40]!r}; send whole milliseconds, from 1", field="X-Deadline-Ms")
        seconds = min(seconds, int(given) / 1000)
    return Deadline(info_of(request.scope).started + seconds, seconds)


def _planned(body: bytes, check: Callable[[bytes], None], plan: Callable[[bytes], Plan]) -> Plan:
    check(body)
    return plan(body)
