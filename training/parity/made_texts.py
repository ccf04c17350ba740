"""Generates texts from the words of a vocabulary, to measure a head without data; always the same texts.

Vocabularies list frequent words first, so words are drawn by Zipf's law over that order. Uniformly drawn tokens, with
word pieces and punctuation, are less like text: they would have refused one in six of 96 good heads on one encoder.
"""

from collections.abc import Iterator

import numpy as np

from models.tokenizer import Tokenizer

OFFSET = 2.7
"""Offset of the ranks (Mandelbrot): the first words are less frequent than by Zipf's law."""
MIN_LENGTH, MAX_LENGTH = 3, 60
"""Minimum and maximum words of a text; lengths are uniform on a log scale."""


def made_texts(tokenizer: Tokenizer, count: int, seed: int = 0) -> list[str]:
    """Return `count` texts of whole words, or of any visible tokens if a vocabulary has no words."""
    generator = np.random.default_rng(seed)
    tokens = np.array(list(_words(tokenizer)) or ["[UNK]"])
    weights = 1 / (np.arange(len(tokens)) + OFFSET)
    lengths = np.exp(generator.uniform(np.log(MIN_LENGTH), np.log(MAX_LENGTH + 1), count)).astype(int)
    drawn = [generator.choice(tokens, length, p=weights / weights.sum()) for length in lengths]
    return [" ".join(words) for words in drawn]


def _words(tokenizer: Tokenizer) -> Iterator[str]:
    tokens = tokenizer.decode_batch([[number] for number in range(tokenizer.vocab_size)])
    for number, (token, ids) in enumerate(zip(tokens, tokenizer.encode_ids(tokens), strict=True)):
        word = token.strip()  # without the blank before it, which is part of a token in RoBERTa
        if word.isalpha() and ids == [number] and not tokenizer.continues(number):
            yield word
