"""Answers without a service: `Predictor("models/starter").answer("sentiment", ["Good.", "Bad."])`.

It needs neither torch nor an event loop. Use it for evaluation, for scoring files, in notebooks, and in Spark or Ray
jobs. It gives the same answers and errors as the service, because both use the same task code.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from models.bundle import Bundle, read_bundle
from models.errors import InferenceError, InputError
from models.input_errors import at, input_error, kind_of
from models.occlusion import Explanation, Occlusion
from models.onnx_runtime import Precision, Provider
from models.row import Encoded, Row
from models.session import Session
from models.task import MAX_LOGITS, HeadSpec, Logits, Strict
from models.task_registry import ROUTES, AnyTask, RouteName, routes_of
from models.tokenizer import Tokenizer

BATCH_TOKENS = 2048
"""Maximum tokens of a batch, padding included."""
NO_PARAMETERS: Mapping[str, Any] = MappingProxyType({})
Place = tuple[int, int]
"""The place of a row: the index of its input, and its number within that input."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to the input at `index`, or the error that takes its place."""

    index: int
    answer: Any
    """As in the service, ready for JSON."""
    logits: Logits | None = None
    """[positions, labels], if the predictor has them."""
    error: InputError | InferenceError | None = None
    encoded: Encoded[Any] | None = None
    """The rows of the input, if the predictor has them."""


class LocalPredictor(ABC):
    """A predictor in this process: it encodes all inputs, runs rows of similar length in batches, and decodes."""

    def __init__(self, heads: Mapping[str, HeadSpec], tokenizer: Tokenizer, max_length: int) -> None:
        self.heads = dict(heads)
        self.tokenizer = tokenizer
        self.max_length = max_length
        """Maximum tokens of a row, special ones included."""
        self._tasks: dict[tuple[str, RouteName], AnyTask] = {
            (name, route): ROUTES[route](tokenizer, spec, max_length)
            for name, spec in heads.items()
            for route in routes_of(spec)
            if route != "rerank"  # its scores are those of pair
        }

    @abstractmethod
    def run(self, head: str, rows: Sequence[Row]) -> list[Logits]:
        """Return the logits [positions, labels] of each row; raise InferenceError if the model fails."""

    def head(self, name: str) -> HeadSpec:
        """Return the specification of a head; raise InputError, which names the existing heads."""
        return self.heads[known_head(name, self.heads)]

    def task(self, head: str, route: RouteName | None = None) -> AnyTask:
        """Return the task of a head on a route (default: its own); raise InputError, which names the head's routes."""
        own = self.head(head).task
        routes = [known for name, known in self._tasks if name == head]
        if (route or own) not in routes:
            raise InputError("route", f"{route!r} is not a route of head {head!r}, expected {' or '.join(routes)}")
        return self._tasks[head, route or own]

    def answer(
        self,
        head: str,
        inputs: Sequence[Any],
        parameters: Mapping[str, Any] = NO_PARAMETERS,
        route: RouteName | None = None,
    ) -> list[Any]:
        """Return the answer to each input, as the service does for a list.

        An input is what the route takes: a text, {"text": …, "text_pair": …}, {"question": …, "context": …}, or words.
        `parameters` override the head's defaults. `route` is the head's task, or "zero-shot" for a pair head.
        Raises InputError for the first wrong input or parameter, and InferenceError if the model fails.
        """
        found = list(self.predict(head, inputs, parameters, route))
        return [one.answer for one in sorted(found, key=lambda one: one.index)]

    def predict(
        self,
        head: str,
        inputs: Sequence[Any],
        parameters: Mapping[str, Any] = NO_PARAMETERS,
        route: RouteName | None = None,
    ) -> Iterator[Prediction]:
        """Answer every input once, in any order; raise for the first one that cannot be answered."""
        for one in self.predict_each(head, inputs, parameters, route):
            if one.error:
                raise one.error
            yield one

    def predict_each(
        self,
        head: str,
        inputs: Sequence[Any],
        parameters: Mapping[str, Any] = NO_PARAMETERS,
        route: RouteName | None = None,
    ) -> Iterator[Prediction]:
        """Answer every input once, in any order; if one cannot be answered, `error` says why, and others still are."""
        yield from self._predict_each(head, self.task(head, route), inputs, parameters)

    def explain(self, head: str, one: Any, parameters: Mapping[str, Any] = NO_PARAMETERS) -> Explanation:
        """Return the answer to one input, and the influence of each of its words; see models/occlusion.py.

        Raises InputError for a head that cannot explain, and for a wrong input (named inputs[0]) or parameter. Raises
        InferenceError if the model fails.
        """
        (found,) = self._predict_each(head, Occlusion(self.task(head)), [one], parameters)
        if found.error:
            raise found.error
        explanation: Explanation = found.answer
        return explanation

    def _predict_each(
        self, head: str, task: AnyTask, inputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Iterator[Prediction]:
        parsed = task.parse_parameters(parameters)
        encoded: dict[int, Encoded[Any]] = {}
        for index, one in enumerate(_listed(inputs)):
            try:
                encoded[index] = self._encode(task, index, one, parsed)
            except InputError as error:
                yield Prediction(index, None, error=error)
        yield from self._run_all(head, task, parsed, encoded)

    def _encode(self, task: AnyTask, index: int, one: Any, parameters: Strict) -> Encoded[Any]:
        parsed = parse_input(task, index, one)
        try:
            encoded = task.encode(parsed, parameters)
        except InputError as error:
            raise at(error, index) from None
        logits = task.head.width(self.tokenizer.vocab_size) * sum(len(row.positions) for row in encoded.rows)
        if logits > MAX_LOGITS:
            sentence = f"makes {logits} scores, but at most {MAX_LOGITS} are computed for one input; divide the text"
            raise InputError(f"inputs[{index}]", sentence)
        return encoded

    def _run_all(
        self, head: str, task: AnyTask, parameters: Strict, encoded: dict[int, Encoded[Any]]
    ) -> Iterator[Prediction]:
        """Answer each input as soon as all its rows are computed, then drop its data."""
        computed: dict[int, dict[int, Logits]] = {index: {} for index in encoded}
        for batch in like_length(encoded):
            waiting = [(index, number) for index, number in batch if index in encoded]
            rows = [encoded[index].rows[number] for index, number in waiting]
            for (index, number), logits in zip(waiting, self._run_each(head, rows), strict=True):
                if index not in encoded:
                    continue
                if isinstance(logits, InferenceError):
                    yield Prediction(index, None, error=logits, encoded=encoded.pop(index))
                    continue
                computed[index][number] = logits
                if len(computed[index]) == len(encoded[index].rows):
                    of_rows = computed.pop(index)
                    of_input = np.concatenate([of_rows[number] for number in range(len(of_rows))])
                    yield _decoded(task, index, encoded.pop(index), of_input, parameters)

    def _run_each(self, head: str, rows: Sequence[Row]) -> Sequence[Logits | InferenceError]:
        """Run rows together; if that fails, run them one by one, so that only the faulty ones fail."""
        try:
            return self.run(head, rows) if rows else []
        except InferenceError as error:
            return [error] if len(rows) == 1 else [each for row in rows for each in self._run_each(head, [row])]


class Predictor(LocalPredictor):
    """The heads of a bundle, as the service runs them; threads may share it."""

    def __init__(
        self,
        bundle: Bundle | Path | str,
        *,
        precision: Precision | None = None,
        provider: Provider = "cpu",
        threads: int = 1,
    ) -> None:
        """Open a bundle, or a directory with one; raise BundleError.

        The default precision is int8 on CPU and fp16 on CUDA, or fp32 if the bundle lacks it. A run uses `threads`.
        """
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle))
        manifest = self.bundle.manifest
        heads = {name: head.spec for name, head in manifest.heads.items()}
        super().__init__(heads, self.bundle.tokenizer, manifest.encoder.max_length)
        self._session = Session(self.bundle, precision=precision, provider=provider, threads=threads)

    def run(self, head: str, rows: Sequence[Row]) -> list[Logits]:
        try:
            # Request all logits, not only the selected tokens that a service needs.
            return self._session.run([(head, replace(row, wanted=()) if row.wanted else row) for row in rows])
        except Exception as error:
            raise InferenceError(
                f"head {head!r} failed on {len(rows)} rows of at most {_longest(rows)} tokens"
            ) from error


def known_head(name: str, heads: Collection[str]) -> str:
    """Return `name` if there is such a head; otherwise raise InputError, which names the existing ones."""
    if name not in heads:
        found = ", ".join(sorted(heads))
        raise InputError("head", f"there is no head {name!r}, expected one of {found}; name one")
    return name


def parse_input(task: AnyTask, index: int, one: Any) -> Any:
    """Parse an input, given as JSON values or as the task's own type; raise InputError for inputs[index]."""
    try:
        return _adapter(task.inputs).validate_python(one, strict=True)
    except ValidationError as error:
        names = list(getattr(task.inputs, "model_fields", ()))
        first = _meant(error.errors(include_url=False), one)
        # For a union, pydantic puts the name of the alternative before the location in it.
        place = first["loc"] if names else [part for part in first["loc"] if isinstance(part, int)]
        raise input_error(first, names, [index, *place]) from None


def _meant(found: list[ErrorDetails], one: Any) -> ErrorDetails:
    """Return the first error; for a union, that of the alternative that was meant."""
    is_list = isinstance(one, list)
    return next((each for each in found if str(each["loc"][:1]).startswith("('list[") == is_list), found[0])


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _listed(inputs: Sequence[Any]) -> Sequence[Any]:
    if isinstance(inputs, str | bytes | Mapping):
        raise InputError("inputs", f"is {kind_of(inputs)}, expected a list of inputs; put it into brackets")
    return inputs


def _decoded(task: AnyTask, index: int, encoded: Encoded[Any], logits: Logits, parameters: Strict) -> Prediction:
    if not np.isfinite(logits.sum()):
        error = InferenceError(f"inputs[{index}]: a score is not a number, expected finite ones; check the bundle")
        return Prediction(index, None, error=error, encoded=encoded)
    return Prediction(index, task.decode(encoded, logits, parameters), logits, encoded=encoded)


def like_length(encoded: Mapping[int, Encoded[Any]]) -> Iterator[list[Place]]:
    """Yield batches of rows of similar length, longest first, so that memory runs out at the start or never."""
    lengths = {(i, n): len(row.input_ids) for i, one in encoded.items() for n, row in enumerate(one.rows)}
    batch: list[Place] = []
    for place in sorted(lengths, key=lambda place: -lengths[place]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _longest(rows: Sequence[Row]) -> int:
    return max(len(row.input_ids) for row in rows)
