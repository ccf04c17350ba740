"""Texts of a vocabulary's own words, for measuring a head that has no text: any language, the same ones each time.

Vocabularies list frequent words first, so words are drawn by Zipf's law over that order. Tokens drawn evenly, pieces of
words and signs among them, are less like text: of 96 good heads on one encoder they would have refused one in six.
"""

from collections.abc import Iterator

import numpy as np

from models.tokenizer import Tokenizer

OFFSET = 2.7
"""Of the ranks (Mandelbrot): the first words are not as frequent as the law alone says."""
MIN_LENGTH, MAX_LENGTH = 3, 60
"""Words of a text; as many lengths are short as are long, on a scale of ratios."""


def made_texts(tokenizer: Tokenizer, count: int, seed: int = 0) -> list[str]:
    """Return `count` texts of whole words, or of any visible tokens where a vocabulary has no words."""
    generator = np.random.default_rng(seed)
    tokens = np.array(list(_words(tokenizer)) or ["[UNK]"])
    weights = 1 / (np.arange(len(tokens)) + OFFSET)
    lengths = np.exp(generator.uniform(np.log(MIN_LENGTH), np.log(MAX_LENGTH + 1), count)).astype(int)
    drawn = [generator.choice(tokens, length, p=weights / weights.sum()) for length in lengths]
    return [" ".join(words) for words in drawn]


def _words(tokenizer: Tokenizer) -> Iterator[str]:
    tokens = tokenizer.decode_batch([[number] for number in range(tokenizer.vocab_size)])
    for number, (token, ids) in enumerate(zip(tokens, tokenizer.encode_ids(tokens), strict=True)):
        word = token.strip()  # of the blank before it, which is part of a token of RoBERTa's
        if word.isalpha() and ids == [number] and not tokenizer.continues(number):
            yield word
