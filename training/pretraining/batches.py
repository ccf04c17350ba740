"""Masked pairs of a corpus as batches; rows depend only on (seed, epoch, index)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.tokenizer import Tokenizer
from training.errors import RecipeError
from training.pretraining.masking import Ids, Masked, Vocabulary, mask_tokens
from training.pretraining.next_sentence import Ranges, sample_pairs, sample_runs, truncate_pair
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.text.corpus import Corpus

Position = tuple[int, int]
"""The epoch, and the index of the next row in it."""


class MaskedPair(NamedTuple):
    """A masked pair with its special tokens; without next sentences, one run of text, and `following` is unused."""

    masked: Masked
    segments: Ids
    following: int


class Batch(NamedTuple):
    """Pairs for the encoder: [B, S] tensors, flat `positions` [n] of the selected tokens and their `labels` [n]."""

    input_ids: Tensor
    token_type_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    labels: Tensor
    following: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def unmasked(self) -> "Batch":
        """Return the same rows with the original tokens at the selected positions."""
        ids = self.input_ids.flatten().index_copy(0, self.positions, self.labels)
        return self._replace(input_ids=ids.view_as(self.input_ids))


class Rows:
    """The rows of a corpus for one length, epoch by epoch."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, recipe: PretrainRecipe, max_length: int) -> None:
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.max_length = max_length
        self.vocabulary = vocabulary_of(tokenizer)
        self._epoch = -1
        self._pairs = np.zeros((0, 5), np.int64)

    def steps(
        self, batch_size: int, position: Position, part: slice = slice(None)
    ) -> Iterator[tuple[list[MaskedPair], Position]]:
        """Yield the rows of each step from `position` on, or a `part` of them, and the next position.

        The rest of an epoch that does not fill a step is skipped.
        """
        epoch, index = position
        while True:
            count = self.check(batch_size, epoch)
            while index + batch_size <= count:
                chosen = range(index, index + batch_size)[part]
                index += batch_size
                yield [self.row(epoch, i) for i in chosen], (epoch, index)
            epoch, index = epoch + 1, 0

    def check(self, batch_size: int, epoch: int) -> int:
        """Return the number of rows per epoch; raise RecipeError if they do not fill a batch."""
        count = self.count(epoch)
        if batch_size > count:
            raise RecipeError(
                f"batch_size is {batch_size}, but {self.corpus.directory} gives {count} rows per epoch; lower "
                "batch_size or build the corpus from more text"
            )
        return count

    def count(self, epoch: int) -> int:
        return len(self.pairs(epoch))

    def pairs(self, epoch: int) -> Ranges:
        if epoch != self._epoch:
            sample = sample_pairs if self.recipe.nsp else sample_runs
            self._pairs = sample(self.corpus, self.max_length, self.recipe.seed, epoch)
            self._epoch = epoch
        return self._pairs

    def row(self, epoch: int, index: int) -> MaskedPair:
        """Cut, join and mask a pair, with a generator that depends only on (seed, epoch, index)."""
        recipe, tokenizer = self.recipe, self.tokenizer
        rng = np.random.default_rng((recipe.seed, epoch, index))
        a_start, a_end, b_start, b_end, following = (int(value) for value in self.pairs(epoch)[index])
        a, b = self.corpus.tokens[a_start:a_end], self.corpus.tokens[b_start:b_end]
        if recipe.nsp:
            a, b = truncate_pair(a, b, self.max_length - tokenizer.layout.specials, rng)
            laid = tokenizer.pair_row(a.tolist(), b.tolist(), [0])
        else:
            laid = tokenizer.single_row(a[: self.max_length - 2].tolist(), [0])
        ids, segments = np.asarray(laid.input_ids), np.asarray(laid.token_type_ids)
        return MaskedPair(
            mask_tokens(ids, self.vocabulary, recipe.mask_rate, rng, recipe.whole_words), segments, following
        )


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    special = np.array(sorted(tokenizer.special_ids), dtype=np.int64)
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), special)
    continues = np.array([tokenizer.continues(i) for i in range(tokenizer.vocab_size)])
    return Vocabulary(tokenizer.mask_id, special, ordinary, continues)


def collate(rows: list[MaskedPair], length: int = 0) -> Batch:
    """Pad to the longest row, or to `length` if a compiled graph needs one shape."""
    width = max(length, *(len(row.masked.ids) for row in rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    segments, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    positions = []
    for number, row in enumerate(rows):
        size = len(row.masked.ids)
        ids[number, :size] = torch.from_numpy(row.masked.ids)
        segments[number, :size] = torch.from_numpy(row.segments)
        mask[number, :size] = 1
        positions.append(torch.from_numpy(row.masked.columns) + number * width)
    labels = torch.from_numpy(np.concatenate([row.masked.labels for row in rows]))
    following = torch.tensor([row.following for row in rows])
    return Batch(ids, segments, mask, torch.cat(positions), labels, following)
