"""A WordPiece vocabulary from your own text, for a language or a domain that BERT's does not cover.

    python -m training vocab FILE... --out DIR [--size 30000] [--lowercase] [--strip-accents]

Lower case and accents are separate choices, and by default both stay, because they distinguish words in most languages.
What Unicode calls an accent is part of a letter in Japanese (です), Hindi (शुक्रवार), Ukrainian (їжа).
`tokenizers` trains it. Special tokens come first, as in transformers. The others are sorted, because the order of the
trainer changes from run to run. The last entries may differ too, if several pieces are equally frequent. So a corpus
belongs to the vocabulary that it was built with.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from models.tokenizer import SPECIALS, Tokenizer
from training.errors import DataError
from training.run.atomic_files import refuse_existing
from training.text.alphabet import counted
from training.text.documents import Documents, Reading
from training.text.examples import Document
from training.text.source_files import Sources, hashes, readable_files

MIN_SIZE, MAX_SIZE = 100, 10_000_000


def train_vocabulary(
    files: Sequence[Path],
    out: Path,
    size: int,
    lowercase: bool = False,
    strip_accents: bool = False,
    characters: Counter[str] | None = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> Tokenizer:
    """Write a tokenizer of at most `size` entries to `out`; raise DataError for text without words.

    `characters` gets the counts of the raw text, for training/text/alphabet.py. Half of the entries may be characters:
    in Chinese, thousands are words by themselves, and the library's limit of 1,000 would make the others unknown.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise DataError(f"--size is {size}, expected {MIN_SIZE} to {MAX_SIZE:,}; BERT has 30,522")
    with readable_files(files, out) as given:
        refuse_existing(out)
        characters = Counter() if characters is None else characters
        backend = trained(given, size, lowercase, strip_accents, characters, reading)
    tokenizer = Tokenizer(backend, str(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as temporary:
        tokenizer.write(Path(temporary) / out.name)
        refuse_existing(out)  # another command may have written it meanwhile
        (Path(temporary) / out.name).rename(out)
    return tokenizer


def trained(
    files: Sequence[Path], size: int, lowercase: bool, strip_accents: bool, characters: Counter[str], reading: Reading
) -> tokenizers.Tokenizer:
    """Learn the entries, and sort them."""
    backend = tokenizers.Tokenizer(model_of({}))
    # never None, which would strip accents whenever lowercase is set
    backend.normalizer = BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    backend.pre_tokenizer = BertPreTokenizer()
    specials = list(SPECIALS.values())
    trainer = WordPieceTrainer(
        vocab_size=size,
        show_progress=sys.stderr.isatty(),  # in a log, its bars are blank lines
        limit_alphabet=size // 2,
        special_tokens=specials,
        continuing_subword_prefix="##",
    )
    sources = Sources(files)
    found = Documents(hashes(files), reading, sources)
    backend.train_from_iterator(counted(lines_of(found), characters), trainer)
    sources.check()
    found.tell()
    if backend.get_vocab_size() == len(SPECIALS):
        raise DataError(f"{', '.join(map(str, files))}: no word was found, expected running text; pass other files")
    words = sorted(backend.get_vocab().keys() - set(specials))
    backend.model = model_of({token: number for number, token in enumerate([*specials, *words])})
    return backend


def model_of(vocabulary: dict[str, int]) -> WordPiece:
    return WordPiece(vocabulary, unk_token=SPECIALS["unk_token"], max_input_chars_per_word=100)


def lines_of(documents: Iterable[Document]) -> Iterator[str]:
    return (line for document in documents for line in document.text.split("\n"))
