"""Documents → sentences → the arrays of a corpus: in parallel, in bounded memory, and resumable.

Documents are appended to plain files, which training/text/corpus_work.py commits from time to time. `sentencex` splits
sentences. A file that changes during the work is refused, because its hash would belong to another text.
"""

import hashlib
import json
import shutil
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.tokenizer import Tokenizer
from models.wordpiece_cache import Words
from training.errors import DataError, TrainingError
from training.run.atomic_files import LOCK, alone, refuse_existing, write_whole
from training.run.byte_counts import in_units
from training.run.process_pool import ProcessPool
from training.run.progress import progress, tell
from training.run.text_lines import OPENERS
from training.text.corpus import TOKENIZER, Counts, vocabulary_hash
from training.text.corpus_work import Work
from training.text.corpus_writer import Sentences
from training.text.documents import Documents, Reading, sentences
from training.text.examples import Document
from training.text.held_out import is_held_out
from training.text.languages import rules_of
from training.text.source_files import Sources, hashes, readable_files
from training.text.unknown_characters import UnknownCharacters

MAX_SENTENCE = 512  # tokens; a longer "sentence" (a table, a list without stops) is split here, and nothing is lost
WORDS = 2_400_000  # size of the words that a process caches: about 150,000 of them, 30 MB
MAX_UNKNOWN = 0.3  # share of the tokens, and of the characters; a vocabulary of another script knows almost nothing
LAYOUT = 3  # version of OUT.partial; work of another version is not continued
UNPACKED = 3  # minimum bytes of text per compressed byte
BLANKS = " \n\t\u3000"
TOGETHER = 1000  # sentences of a document that are tokenized at once
SENT = 8  # documents per task of a process
AHEAD = 8  # tasks per process that are sent or returned before the first result is read


def build_corpus(
    files: Sequence[Path],
    tokenizer: Path,
    out: Path,
    *,
    held_out: float,
    limit: int | None,
    workers: int,
    language: str = "en",
    nsp: bool = True,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> dict[str, Counts]:
    """Write the corpus of `files` to `out` through OUT.partial; raise DataError for unusable text.

    The share `held_out` of the documents, evenly spread, becomes the validation part; `limit` is the maximum per file.
    `language` is the ISO 639-1 code of the rules for splitting sentences. Without `nsp` a document may have one
    sentence. A held-out document that the training part has too (except for blanks) is counted and left out; other
    duplicates are counted and stay.
    """
    check_options(held_out, limit, workers)
    rules_of(language)
    reading = replace(reading, limit=limit)
    with readable_files(files, out) as given:
        refuse_existing(out)
        pieces, sources = Tokenizer.read(tokenizer), Sources(given)
        hashed = hashes(given)
        found = Documents(hashed, reading, sources)
        asked = {"vocabulary_sha256": vocabulary_hash(pieces), "language": language}
        partial_out = out.with_name(out.name + ".partial")
        with alone(partial_out):
            refuse_existing(out)  # another command may have ended while this one waited for hashes
            tell_space(partial_out, found.files)
            work = Work(partial_out, asked | {"held_out": held_out, "layout": LAYOUT}, pieces)
            rest = work.go_on(found)
            cuts = tokenize(rest, tokenizer, language, workers)
            bar = progress(cuts, "documents", initial=work.documents)
            with work, closing(cuts):
                for sentences in bar:
                    work.add(sentences, "validation" if is_held_out(work.documents + 1, held_out) else "train")
                    if work.is_due:
                        sources.check()
                        work.commit()
                sources.check()
                work.commit()
                counts = work.finish()
            refuse_useless(counts["train"], found.files, nsp)
            pieces.write(work.directory / TOKENIZER)
            parts = {part: asdict(count) for part, count in counts.items()}
            manifest = {"format": "bertheads-corpus/1", "sources": named(hashed), **asked, "parts": parts}
            write_whole(work.directory / "manifest.json", json.dumps(manifest, indent=2) + "\n")
            work.leave()
            work.directory.rename(out)
            (out / LOCK).unlink()  # not earlier: another command would take the files for leftovers
    found.tell()
    return counts


def check_options(held_out: float, limit: int | None, workers: int) -> None:
    if not 0 <= held_out <= 0.5:
        raise DataError(f"held_out is {held_out}, expected a share from 0 to 0.5 of the documents, such as 0.01")
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}, expected 1 or more documents per file; leave it out to read all")
    if workers < 1:
        raise DataError(f"workers is {workers}, expected 1 or more processes; leave it out for one per core")


def named(hashed: dict[Path, str]) -> dict[str, str]:
    """Return the hash of each file by its name, in order; by its path if two have the same name."""
    names = Counter(path.name for path in hashed)
    return {path.name if names[path.name] == 1 else str(path): digest for path, digest in hashed.items()}


def tell_space(directory: Path, files: Sequence[Path]) -> None:
    """Warn if a corpus may not fit on the disk: it needs its size twice while arrays are written."""
    sizes = sum(path.stat().st_size * (UNPACKED if path.suffix.casefold() in OPENERS else 1) for path in files)
    free = shutil.disk_usage(directory).free
    if free < sizes:
        tell(f"{directory} has {in_units(free)} of free space, and this corpus may take {in_units(sizes)}")


# ---- text to ids ---------------------------------------------------------------------------------------------------


def tokenize(found: Iterable[Document], tokenizer: Path, language: str, workers: int) -> Generator[Sentences]:
    """Split documents into sentences of ids, in order, in `workers` processes."""
    texts = (document.text for document in found)
    if workers <= 1:
        yield from map(cutter(tokenizer, language), texts)
        return
    pending: deque[Future[list[Sentences]]] = deque()
    try:
        with ProcessPool(workers, prepare, tokenizer, language) as pool:
            while lot := list(islice(texts, SENT)):
                pending.append(pool.submit(cut_prepared, lot))
                if len(pending) > AHEAD * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
    except BrokenProcessPool:
        raise TrainingError(
            f"one of {workers} processes was killed, perhaps for lack of memory; run the same "
            "command again, which continues, with fewer --workers"
        ) from None


_prepared: list[Any] = []


def prepare(tokenizer: Path, language: str) -> None:
    """Prepare a process."""
    _prepared[:] = [cutter(tokenizer, language)]


def cutter(tokenizer: Path, language: str) -> Callable[[str], Sentences]:
    pieces = Tokenizer.read(tokenizer)
    return partial(cut, pieces.words(WORDS), language=language, unknown=UnknownCharacters(pieces))


def cut_prepared(texts: Sequence[str]) -> list[Sentences]:
    return [_prepared[0](text) for text in texts]


def cut(words: Words, text: str, language: str = "en", unknown: UnknownCharacters | None = None) -> Sentences:
    """Return the sentences of a text as token ids; a line break always ends a sentence."""
    found = sentences(text, language)
    ids, lengths, lost = [np.zeros(0, np.uint32)], list[int](), 0
    for start in range(0, len(found), TOGETHER):
        some = found[start : start + TOGETHER]
        cuts = words.encode(some)
        ids.append(np.fromiter(chain.from_iterable(cuts), np.uint32))
        lengths += [min(MAX_SENTENCE, len(one) - at) for one in cuts for at in range(0, len(one), MAX_SENTENCE)]
        lost += unknown.count(some, cuts, ids[-1]) if unknown else 0
    together = np.concatenate(ids)
    return Sentences(
        together, np.array(lengths, np.uint32), digest(together, text if lost else ""), visible_characters(text), lost
    )


def digest(ids: NDArray[np.uint32], text: str) -> int:
    """Return 64 bits of a hash of a document's ids, and of its text without blanks if it has [UNK]."""
    known = hashlib.blake2b(ids.tobytes(), digest_size=8)
    known.update(" ".join(text.split()).encode())
    return int.from_bytes(known.digest(), "little")


def visible_characters(text: str) -> int:
    """Return the number of characters that are not in BLANKS; these are frequent, and fast to count."""
    return len(text) - sum(map(text.count, BLANKS))


def refuse_useless(counts: Counts, files: Sequence[Path], nsp: bool) -> None:
    """Refuse text that pretraining cannot learn from, with or without next sentences."""
    names = ", ".join(str(path) for path in files)
    usable = counts.documents - counts.single
    if nsp and counts.documents < 2:
        raise DataError(
            f"{names}: {counts.documents} document(s) for training, expected 2 or more, because a random sentence "
            "comes from another document; pass one JSON object per document"
        )
    if nsp and usable < 2:
        raise DataError(
            f"{names}: {counts.single} of {counts.documents} documents have one sentence, which next-sentence "
            "pairs cannot use; pass whole documents, one per line, or --no-nsp, for pretraining with nsp = false"
        )
    if not counts.tokens:
        raise DataError(f"{names}: no token for training, expected running text; pass other files")
    for share, kind in ((counts.unknown_share, "tokens"), (counts.unknown_character_share, "characters")):
        if share > MAX_UNKNOWN:
            raise DataError(
                f"{names}: {share:.0%} of the {kind} are unknown to the vocabulary, expected at most "
                f"{MAX_UNKNOWN:.0%}; pass a tokenizer of this language, or train one with: python -m training vocab"
            )
