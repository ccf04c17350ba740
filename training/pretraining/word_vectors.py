"""Word vectors from counts, as the initial embedding of random weights.

They come only from the corpus, so the network need not first learn which words are similar. They are the largest
singular directions of the positive pointwise mutual information of nearby tokens. As Levy, Goldberg and Dagan (2015)
recommend, contexts are on both sides and weighted by 1 / distance. Their frequencies are raised to the power of 3/4,
singular values to the power of 1/2.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from torch import Tensor

from models.encoder import Encoder
from training.errors import DataError
from training.run.progress import tell
from training.text.corpus import BLOCK, Corpus

WINDOW = 5
"""Tokens of context on each side."""
SMOOTHING = 0.75
MIN_COUNT = 1.0
"""Minimum count of a pair: once side by side, or twice with a token between."""
BLOCKS = 16
"""Maximum blocks of the corpus that are counted; this bounds memory (two gigabytes) and time."""
DEVIATION = 0.04
"""Standard deviation of the embedding; at 0.02 (as for random weights) and 0.08, the loss falls later (dev/LOG.md)."""


@torch.no_grad()
def embed_words(encoder: Encoder, corpus: Corpus) -> None:
    """Set an encoder's word embedding to word vectors; tokens that the corpus lacks stay random."""
    tell(f"counting nearby words of {corpus.directory}: two minutes for 70 million tokens or more")
    table = encoder.embeddings.word.weight
    vectors = word_vectors(corpus, *table.shape).to(table)
    seen = vectors.any(1)
    table[seen] = DEVIATION * vectors[seen]


def word_vectors(corpus: Corpus, vocab_size: int, width: int) -> Tensor:
    """Return a vector [V, width] for each token; the mean square over tokens of the corpus is 1, others are zero.

    V tokens have V - 1 directions; if `width` is larger, the remaining columns are zero. Raise DataError for a corpus
    without any information.
    """
    information = positive_information(cooccurrences(blocks_of(corpus), vocab_size))
    if not information.nnz:
        raise DataError(
            f"{corpus.directory} has no two tokens that occur together more often than by chance; build a "
            "corpus from more text, or set word_vectors = false"
        )
    count = min(width, vocab_size - 1)
    directions, values, _ = svds(information, count, rng=0)
    vectors = np.zeros((vocab_size, width), np.float32)
    vectors[:, :count] = directions * np.sqrt(values)
    seen = information.sum(1) > 0
    vectors[~seen] = 0
    vectors[seen] -= vectors[seen].mean(0)
    return torch.from_numpy(vectors / np.sqrt((vectors[seen] ** 2).mean()))


def blocks_of(corpus: Corpus) -> Iterator[NDArray[np.integer]]:
    """Yield the tokens of a corpus in blocks; of a large corpus, as many as are counted, evenly spread."""
    starts = range(0, len(corpus.tokens), BLOCK)
    for number in np.unique(np.linspace(0, len(starts) - 1, BLOCKS).astype(int)):
        yield corpus.tokens[starts[number] : starts[number] + BLOCK]


def cooccurrences(blocks: Iterable[NDArray[np.integer]], vocab_size: int) -> csr_array:
    """Return how often [V, V] tokens are within WINDOW of each other, weighted by 1 / distance."""
    counts = csr_array((vocab_size, vocab_size), dtype=np.float32)
    for block in blocks:
        for distance in range(1, WINDOW + 1):
            pairs = (block[:-distance].astype(np.int32), block[distance:].astype(np.int32))
            weights = np.full(len(pairs[0]), 1 / distance, np.float32)
            counts += csr_array((weights, pairs), shape=counts.shape)
    return counts + counts.T


def positive_information(counts: csr_array) -> csr_array:
    """Return by how many nats [V, V] tokens occur with contexts more often than by chance, at least 0."""
    pairs = counts.tocoo()
    tokens = counts.sum(1)
    contexts = tokens**SMOOTHING
    expected = tokens[pairs.row] * contexts[pairs.col] / contexts.sum()
    information = np.log(pairs.data / expected)
    told = (pairs.data >= MIN_COUNT) & (information > 0)
    kept = (information[told], (pairs.row[told], pairs.col[told]))
    return csr_array(kept, shape=counts.shape, dtype=np.float32)
