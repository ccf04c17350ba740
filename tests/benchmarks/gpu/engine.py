"""Errors and rates of a session on rows that are tokenized already, without the service."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate
from statistics import median
from typing import Any

import numpy as np

from models.bundle import Bundle
from models.row import Row
from models.session import Session
from models.task import softmax
from tests.benchmarks.peaks import needed_operations

MIXED = "mixed"
"""Lengths from 8 to 400 tokens."""
MAX_LENGTH = 400
BATCH_TOKENS = (4_096, 16_384, 65_536)
NEW_SHAPES = 20
MASKS, MASKS_OF_ROW, MASK_TOKENS = 512, 8, 128
FIRST_ID, LAST_ID = 1000, 20_000

Figures = dict[str, Any]
Item = tuple[str, Row]


def errors(session: Session, exact: Session, head: str) -> Figures:
    """Return the largest difference to fp32 on CPU, and of a row alone to the same one in a batch."""
    generator = np.random.default_rng(0)
    longest = session.max_length
    items = [random_item(head, length, generator) for length in (longest, longest // 3, 16)]
    beside = [random_item(head, length, generator) for length in (3, longest // 2, longest)]
    wanted, among = exact.run(items), session.run([*items, *beside])
    alone = [session.run([item])[0] for item in items]
    return {
        "difference_to_fp32": largest(alone, wanted),
        "largest_logit": max(float(np.abs(logits).max()) for logits in wanted),
        "difference_in_a_batch": largest(alone, among[: len(items)]),
    }


def largest(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    return max(float(np.abs(mine - theirs).max()) for mine, theirs in zip(found, wanted, strict=True))


def first_and_second_runs(session: Session, head: str) -> Figures:
    """Return milliseconds of batches of shapes that were never met, and of the same ones right after."""
    generator = np.random.default_rng(1)
    taken: list[list[float]] = [[], []]
    for number in range(NEW_SHAPES):
        length = session.max_length - 3 * number - 1
        items = [random_item(head, length, generator) for _ in range(8 + number)]
        for times in taken:
            times.append(1000 * seconds_of(session, items))
    first, second = taken
    return {
        "shapes": NEW_SHAPES,
        "first_ms": median(first),
        "slowest_first_ms": max(first),
        "second_ms": median(second),
        "slowest_second_ms": max(second),
    }


def masks(session: Session, head: str) -> Figures:
    """Return milliseconds of a batch of masks whose logits all come back, and of one of which five tokens each do.

    And how far the probability of the best token is off, of any mask.
    """
    generator = np.random.default_rng(3)
    length = min(session.max_length, MASK_TOKENS)
    rows = [random_item(head, length, generator)[1] for _ in range(MASKS // MASKS_OF_ROW)]
    every = [(head, replace(row, positions=list(range(MASKS_OF_ROW)))) for row in rows]
    best = [(head, replace(row, wanted=(5,))) for _, row in every]
    logits, chosen = session.run(every), session.run(best)
    return {
        "masks": MASKS,
        "all_logits_ms": 1000 * median(seconds_of(session, every) for _ in range(5)),
        "five_tokens_ms": 1000 * median(seconds_of(session, best) for _ in range(5)),
        "difference": max(abs(best_of(mine) - best_of(theirs)) for mine, theirs in zip(chosen, logits, strict=True)),
    }


def best_of(answer: Any) -> float:
    """Return the highest probability of the first mask, by all logits or by the tokens that were chosen."""
    return float(answer[MASKS_OF_ROW, 0] if len(answer) > MASKS_OF_ROW else softmax(answer[0], 1.0).max())


def seconds_of(session: Session, items: list[Item]) -> float:
    began = time.perf_counter()
    session.run(items)
    return time.perf_counter() - began


def rows_of(session: Session, head: str, length: int | str) -> list[Item]:
    """Return rows of one length, or of mixed lengths, for the largest batch."""
    generator = np.random.default_rng(2)
    items, tokens = [], 0
    while tokens < max(BATCH_TOKENS):
        size = min(
            session.max_length, length if isinstance(length, int) else int(generator.integers(8, MAX_LENGTH + 1))
        )
        items.append(random_item(head, size, generator))
        tokens += size
    return items


def rate(bundle: Bundle, session: Session, rows: list[Item], lanes: int, seconds: float, peak: float) -> Figures:
    """Return what batches of the best size bring, `lanes` of them at once."""
    totals = list(accumulate(len(row.input_ids) for _, row in rows))
    rates: dict[int, float] = {}
    for tokens in BATCH_TOKENS:
        count = max(1, sum(total <= tokens for total in totals))
        rates[count] = rows_per_second(session, rows[:count], lanes, seconds / len(BATCH_TOKENS))
    best = max(rates, key=rates.__getitem__)
    needed = sum(needed_operations(bundle, row) for _, row in rows[:best]) / best
    return {
        "rows_per_batch": best,
        "rows_per_s": rates[best],
        "tokens_per_s": rates[best] * totals[best - 1] / best,
        "peak_share": rates[best] * needed / peak,
    }


def rows_per_second(session: Session, items: list[Item], lanes: int, seconds: float) -> float:
    """Run a batch again and again in each lane, after two that do not count."""
    session.run(items)
    session.run(items)
    began = time.perf_counter()

    def lane(_: int) -> int:
        count = 0
        while not count or time.perf_counter() < began + seconds:
            session.run(items)
            count += 1
        return count

    with ThreadPoolExecutor(lanes) as pool:
        batches = sum(pool.map(lane, range(lanes)))
    return batches * len(items) / (time.perf_counter() - began)


def random_item(head: str, length: int, generator: np.random.Generator) -> Item:
    """Draw a row whose [CLS] a head reads."""
    return head, Row(generator.integers(FIRST_ID, LAST_ID, length).tolist(), [0] * length, [0])
