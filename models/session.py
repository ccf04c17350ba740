"""A session: an encoder in ONNX Runtime and the heads that read it.

Rows of all heads share one encoder run, in which equal rows are computed once. Then each head runs once, on the vectors
of its rows. On CPU the logits of a row are bit-identical in any batch: kernels reduce over one row at a time, padding
adds exact zeros or is left out, and int8 scales are computed per row (training/exporting/quantize.py). With int8 they
are also bit-identical for any number of threads.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from models.batch import PACKED, Batch, pack, pad
from models.bundle import Bundle
from models.choices import Asked, Chooser, check_best
from models.encoder_output import DeviceVectors, Floats, HostVectors, Vectors
from models.errors import BundleError
from models.onnx_runtime import Device, Precision, Provider, find_kernels, metadata_of, open_graph
from models.probe import Probe, read_probe
from models.row import Row, RowKey
from models.task import Logits

# The first precision that a bundle has is used. CUDA has no kernels for our int8 products; CPU computes fp16 by casts.
PREFERENCE: dict[Provider, list[Precision]] = {"cpu": ["int8", "fp32", "fp16"], "cuda": ["fp16", "fp32"]}
Wide = Literal["auto", "on", "off"]
WIDE_TOKENS = 32
"""Minimum tokens of a batch for more threads; in smaller ones, threads wait for each other longer than they compute."""
MIN_GAIN = 0.1
"""Minimum speed-up per additional thread, as a second encoder needs memory and threads that wait occupy cores."""
MAX_REPEATS = 3
"""Maximum repetitions of a measurement; the fastest run counts."""


class Question(NamedTuple):
    """One request to a head: a row, by its index in the batch, and the columns that the head reads."""

    head: str
    row: int
    positions: tuple[int, ...]
    wanted: tuple[int, ...]
    """As in Row; () for all logits."""


class Session:
    """Runs the rows of any heads of a bundle; several threads may call it at once."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: Precision | None = None,
        provider: Provider = "cpu",
        threads: int = 1,
        wide_threads: int = 1,
        wide: Wide = "auto",
        device: int = 0,
        memory: int = 0,
    ) -> None:
        """Open the graphs: by default int8 on CPU and fp16 on CUDA, fp32 where the bundle has none.

        On CUDA they run on GPU `device`, and each graph may use `memory` bytes (0: no limit). A run uses `threads`;
        `run_alone` uses `wide_threads`, with a second encoder, if `wide` is "on". Then the weights are in memory twice.
        So "auto" means "on" only for int8; the weights of fp32 are four times as large. Raises BundleError.
        """
        files = bundle.manifest.encoder.files
        self.precision: Precision = _choose(bundle, precision, provider)
        self.provider: Provider = provider
        self.max_length = bundle.manifest.encoder.max_length
        self.hidden_size = bundle.manifest.encoder.hidden_size
        self._tokenizer = bundle.tokenizer
        widens = wide == "on" or (wide == "auto" and self.precision == "int8")
        widens = widens and provider == "cpu" and wide_threads > threads and self.max_length >= WIDE_TOKENS
        self._device = Device(provider, device, memory)
        with bundle.open() as contents:
            encoder = contents.graph(files[self.precision])
            self._encoder = open_graph(encoder, self._device, threads)
            self._wide = open_graph(encoder, self._device, wide_threads, spins=True) if widens else None
            self._heads = {
                name: open_graph(contents.graph(head.file), self._device, threads)
                for name, head in bundle.manifest.heads.items()
            }
            probe = read_probe(contents) if provider == "cuda" else None
        self._temperatures = {
            name: head.temperature
            for name, head in bundle.manifest.heads.items()
            if head.task == "fill-mask" and provider == "cuda"
        }
        """Temperatures of heads whose tokens are selected on the device."""
        self._chooser = Chooser(self._device) if self._temperatures else None
        metadata = metadata_of(self._encoder)
        self._stride = metadata["max_length"]
        self._packs = {value.name for value in self._encoder.get_inputs()} == PACKED.keys()
        """Whether the graph of the encoder takes packed rows."""
        has_kernel = provider == "cuda" if self._packs else find_kernels() is not None
        self.pads = not (metadata.get("packed", False) and has_kernel)
        """Whether padding is computed, at least in attention, so a row takes longer in a batch with a longer one."""
        sizes = bundle.manifest.encoder
        self._shape = (self.precision, provider, sizes.hidden_size, sizes.layers, sizes.max_length, wide_threads)
        self._least_gain = 1 + MIN_GAIN * (wide_threads - threads)
        self._gains: list[tuple[int, float]] = []
        """Measured speed-ups of `run_alone`: (tokens of the row, speed-up), longest row first."""
        if probe:
            self._try(probe, bundle)

    def _try(self, probe: Probe, bundle: Bundle) -> None:
        """Raise BundleError if the device does not compute the logits that export stored."""
        names = {head.file: name for name, head in bundle.manifest.heads.items()}
        place = f"{bundle.directory} on {self.provider} {self._device.number}"
        probe.check(lambda rows: self.run([(names[each.head], each.row) for each in rows]), place)
        masks = [(names[each.head], each.row) for each in probe.rows if names[each.head] in self._temperatures]
        best = self.run([(name, replace(row, wanted=(1,))) for name, row in masks])
        for (name, _), found, logits in zip(masks, best, self.run(masks), strict=True):
            check_best(found, logits, self._temperatures[name], f"{place}, {name}")

    def run(self, items: Sequence[tuple[str, Row]]) -> list[Logits]:
        """Return the logits [positions of the row, labels] of each (head name, row), in order.

        On CUDA a fill-mask head may return the tokens that the row requests instead; see models/choices.py.
        """
        return self._run(items, self._encoder)

    def vectors(self, rows: Sequence[Row]) -> Floats:
        """Return the vectors [positions of all rows, H] at the rows' positions, in order."""
        found: Floats = self._encoder.run(["vectors"], self._lay([row.key for row in rows]).read_all(rows))[0]
        return found

    def run_alone(self, items: Sequence[tuple[str, Row]]) -> list[Logits]:
        """Return the same as `run`, computed by `wide_threads`; for a long batch while nothing else runs."""
        return self._run(items, self._wide or self._encoder)

    def gain(self, tokens: int) -> float:
        """Return the speed-up of `run_alone` over `run` for this many tokens, as measured by `warm_up`.

        It is 1 if the speed-up is too small or unknown.
        """
        gain = next((gain for length, gain in self._gains if tokens >= length), 1.0)
        return gain if gain >= self._least_gain else 1.0

    @property
    def is_wide(self) -> bool:
        """Whether `run_alone` uses `wide_threads`."""
        return self._wide is not None

    def warm_up(self, like: "Session | None" = None) -> None:
        """Run every head on the shortest and the longest row, so that no request pays the cost of first use.

        `like`: a session that serves meanwhile. Measuring the speed-up of more threads would take the cores from it.
        So its measurements are copied if the shapes are equal; otherwise this session uses no additional threads.
        """
        for length in (self.max_length, 3):
            self.run([(name, self._any_row(length)) for name in self._heads])
        if like:
            self._gains = like._gains if like._shape == self._shape else []
            self._wide = self._wide if self._gains else None
        elif self._wide:
            lengths = [length for length in (4 * WIDE_TOKENS, 2 * WIDE_TOKENS, WIDE_TOKENS) if length < self.max_length]
            self._gains = [(length, self._measure_gain(self._wide, length)) for length in (self.max_length, *lengths)]
            if max(gain for _, gain in self._gains) < self._least_gain:
                self._wide, self._gains = None, []

    def _measure_gain(self, wide: InferenceSession, length: int) -> float:
        """Run a row on both encoders alternately, short rows more often; return the ratio of their fastest times."""
        items = [(next(iter(self._heads)), self._any_row(length))]
        seconds = {wide: math.inf, self._encoder: math.inf}
        for encoder in (wide, self._encoder) * min(2 * self.max_length // length, MAX_REPEATS):
            began = time.monotonic()
            self._run(items, encoder)
            seconds[encoder] = min(seconds[encoder], time.monotonic() - began)
        return seconds[self._encoder] / seconds[wide]

    def _any_row(self, length: int) -> Row:
        return Row([self._tokenizer.unk_id] * length, [0] * length, [0], wanted=(1,))

    def _run(self, items: Sequence[tuple[str, Row]], encoder: InferenceSession) -> list[Logits]:
        """Run the encoder once for equal rows, and a head once for equal questions."""
        if not items:
            return []
        self._check(items)
        numbers: dict[RowKey, int] = {}
        questions = [
            Question(
                name,
                numbers.setdefault(row.key, len(numbers)),
                tuple(row.positions),
                row.wanted if name in self._temperatures else (),
            )
            for name, row in items
        ]
        by_head: dict[str, dict[Question, None]] = {}
        for question in questions:
            by_head.setdefault(question.head, {})[question] = None
        batch = self._lay(list(numbers))
        flat = [
            batch.starts[question.row] + column
            for asked in by_head.values()
            for question in asked
            for column in question.positions
        ]
        vectors = self._encode(encoder, batch.read(flat), len(by_head) > 1)
        answers = self._read_heads(by_head, vectors)
        return [answers[question] for question in questions]

    def _lay(self, rows: Sequence[RowKey]) -> Batch:
        return pack(rows, self._stride) if self._packs else pad(rows, self._tokenizer.pad_id)

    def _encode(self, encoder: InferenceSession, inputs: dict[str, NDArray[Any]], several: bool) -> Vectors:
        least = 2 if self._packs else 1
        if self.provider == "cpu":
            return HostVectors(encoder, inputs, several, least)
        return DeviceVectors(encoder, inputs, self._device, least)

    def _read_heads(self, by_head: dict[str, dict[Question, None]], vectors: Vectors) -> dict[Question, Logits]:
        answers: dict[Question, Logits] = {}
        start = 0
        for name, asked in by_head.items():
            end = start + sum(len(question.positions) for question in asked)
            answers |= zip(asked, self._read_head(name, list(asked), vectors, start, end), strict=True)
            start = end
        return answers

    def _read_head(
        self, name: str, questions: list[Question], vectors: Vectors, start: int, end: int
    ) -> Sequence[Logits]:
        """Return the result for each question; if any of them needs all logits, all are copied to the host."""
        head, asked = self._heads[name], [Asked(len(each.positions), each.wanted) for each in questions]
        if self._chooser and isinstance(vectors, DeviceVectors) and all(each.wanted for each in asked):
            return self._chooser.choose(vectors.keep(head, start, end), self._temperatures[name], asked)
        logits = vectors.read(head, start, end)
        return np.split(logits, list(accumulate(each.positions for each in asked))[:-1])

    def _check(self, items: Sequence[tuple[str, Row]]) -> None:
        for name, _ in items:
            if name not in self._heads:
                raise BundleError(f"there is no head {name!r} in this bundle; it has {', '.join(self._heads)}")
        longest = max(len(row.input_ids) for _, row in items)
        if longest > self.max_length:
            raise BundleError(
                f"a row has {longest} tokens, expected at most {self.max_length}; cut it or slide windows"
            )


def _choose(bundle: Bundle, precision: Precision | None, provider: Provider) -> Precision:
    files = bundle.manifest.encoder.files
    if provider == "cuda" and precision == "int8":
        raise BundleError("precision int8 has no kernels on CUDA; use fp16 or fp32 there, or --provider cpu")
    wanted = [precision] if precision else PREFERENCE[provider]
    for choice in wanted:
        if choice in files:
            return choice
    raise BundleError(
        f"{bundle.directory} has its encoder in {', '.join(files)}, expected {' or '.join(wanted)} for {provider}; "
        f"make a bundle that has it: python -m training export {bundle.directory} --precision {wanted[0]} --out BUNDLE"
    )
