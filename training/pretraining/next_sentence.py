"""Next-sentence pairs as in the BERT paper, but the random half always comes from another document.

A pair is two ranges of the corpus' tokens, so a whole epoch of pairs is one small array. Differences from
create_pretraining_data.py: the random document is never the same one (there, after ten tries, it may be). And a chunk
has at least two sentences, so none is random only because it has a single sentence (there, more than half are random).
"""

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError
from training.text.corpus import Corpus

SHORT_SHARE = 0.1
"""Share of chunks with a shorter target, so that the model sees short texts (BERT paper)."""

NEXT, RANDOM = 0, 1
MIN_ROW = 8
"""Minimum of `longest_row`, in tokens: no model has a shorter maximum length."""

Ranges = NDArray[np.int64]


class Pair(NamedTuple):
    """Token ranges of both segments, and the label: 0 = b follows a, 1 = b is from another document."""

    a_start: int
    a_end: int
    b_start: int
    b_end: int
    label: int


def sample_pairs(corpus: Corpus, max_length: int, seed: int, epoch: int) -> Ranges:
    """Return the pairs of an epoch, shuffled: int64 [pairs, 5], columns as in `Pair`.

    The result depends only on the arguments; the pairs of a document depend only on (seed, epoch, document).
    """
    if len(corpus) < 2:
        raise DataError(
            f"{corpus.directory} has {len(corpus)} document(s), expected 2 or more, because a random sentence comes "
            "from another document; build the corpus from more documents"
        )
    found = array("q")  # 40 bytes per pair: an epoch of a large corpus has millions
    for document in range(len(corpus)):
        for pair in document_pairs(corpus, document, max_length - 3, np.random.default_rng([seed, epoch, document])):
            found.extend(pair)
    if not found:
        raise DataError(f"{corpus.directory} has no document of two sentences; build it from whole documents")
    return shuffled(found, seed, epoch)


def shuffled(found: "array[int]", seed: int, epoch: int) -> Ranges:
    return np.random.default_rng([seed, epoch]).permutation(np.frombuffer(found, np.int64).reshape(-1, 5))


def random_share(corpus: Corpus, max_length: int, documents: int) -> float:
    """Return the share of random second segments among the pairs of the first `documents`: about one half."""
    labels = [
        pair.label
        for document in range(min(documents, len(corpus)))
        for pair in document_pairs(corpus, document, max_length - 3, np.random.default_rng([0, 0, document]))
    ]
    return sum(labels) / max(1, len(labels))


def longest_row(corpus: Corpus, max_length: int, nsp: bool) -> int:
    """Return the maximum tokens of a row of the corpus, with special tokens: short documents do not fill a row.

    A pair comes from one or two documents, a run from one.
    """
    longest = np.sort(np.diff(corpus.sentences[corpus.documents]))[::-1]
    tokens = int(longest[:2].sum()) + 3 if nsp else int(longest[:1].sum()) + 2
    return max(MIN_ROW, min(max_length, tokens))


def sample_runs(corpus: Corpus, max_length: int, seed: int, epoch: int) -> Ranges:
    """Return runs of sentences instead of pairs, for training without next sentences: columns as in `Pair`, b empty.

    Each fills `max_length` if its document is long enough; one in ten is shorter, as with pairs.
    """
    found = array("q")
    for document in range(len(corpus)):
        generator = np.random.default_rng([seed, epoch, document])
        for start, end in document_runs(corpus, document, max_length - 2, generator):
            found.extend(Pair(start, end, end, end, NEXT))
    return shuffled(found, seed, epoch)


def document_runs(corpus: Corpus, document: int, room: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Divide a document into runs of at most `room` tokens; a longer sentence continues in the next run."""
    first, last = int(corpus.documents[document]), int(corpus.documents[document + 1])
    edges = corpus.sentences[first : last + 1]
    start, stop = int(edges[0]), int(edges[-1])
    runs = []
    while start < stop:
        target = int(rng.integers(2, room + 1)) if rng.random() < SHORT_SHARE else room
        edge = int(edges[np.searchsorted(edges, start + target, side="right") - 1])
        end = edge if edge > start else min(start + target, stop)
        runs.append((start, end))
        start = end
    return runs


def document_pairs(corpus: Corpus, document: int, room: int, rng: np.random.Generator) -> list[Pair]:
    """Divide a document into chunks of about `room` tokens, and cut each into a pair."""
    first, last = int(corpus.documents[document]), int(corpus.documents[document + 1])
    starts = corpus.sentences[first : last + 1].tolist()
    count = last - first
    pairs = []
    i = 0
    while count - i >= 2:
        target = int(rng.integers(2, room + 1)) if rng.random() < SHORT_SHARE else room
        end = chunk_end(starts, i, target)
        cut = int(rng.integers(i + 1, end))
        if rng.random() < 0.5:
            b_start, b_end = random_range(corpus, document, max(1, target - (starts[cut] - starts[i])), rng)
            pairs.append(Pair(starts[i], starts[cut], b_start, b_end, RANDOM))
            i = cut  # unused sentences are used again (create_pretraining_data.py:290-293)
        else:
            pairs.append(Pair(starts[i], starts[cut], starts[cut], starts[end], NEXT))
            i = end
    return pairs


def chunk_end(starts: list[int], i: int, target: int) -> int:
    """Return the end of the chunk that starts with sentence `i`: it has at least two, and leaves no single one."""
    count = len(starts) - 1
    end = i + 2
    while end < count and starts[end] - starts[i] < target:
        end += 1
    return count if count - end == 1 else end


def random_range(corpus: Corpus, document: int, target: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return sentences of about `target` tokens from any other document."""
    other = int(rng.integers(len(corpus) - 1))
    other += other >= document
    first, last = int(corpus.documents[other]), int(corpus.documents[other + 1])
    start = int(rng.integers(first, last))
    end = start + 1
    while end < last and corpus.sentences[end] - corpus.sentences[start] < target:
        end += 1
    return int(corpus.sentences[start]), int(corpus.sentences[end])


def truncate_pair(
    a: NDArray[np.integer], b: NDArray[np.integer], room: int, rng: np.random.Generator
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Shorten the longer segment, randomly at its start or end, until both fit (create_pretraining_data.py:418-433)."""
    excess = len(a) + len(b) - room
    if excess <= 0:
        return a, b
    longer = max(0, min(excess, abs(len(a) - len(b))))
    both = excess - longer
    from_a = (longer if len(a) > len(b) else 0) + both // 2
    return cut_ends(a, from_a, rng), cut_ends(b, excess - from_a, rng)


def cut_ends(ids: NDArray[np.integer], count: int, rng: np.random.Generator) -> NDArray[np.integer]:
    front = int(rng.binomial(count, 0.5))
    return ids[front : len(ids) - (count - front)]
