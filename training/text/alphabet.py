"""The characters of a text that a vocabulary does not represent: capitals, accents, and those without an entry."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from tokenizers.normalizers import BertNormalizer

from models.tokenizer import Tokenizer

EXAMPLES = 5
"""Distinct characters that a sentence lists, the most frequent first."""
PLAIN = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}


def counted(lines: Iterable[str], characters: Counter[str]) -> Iterator[str]:
    """Yield the lines and count their characters."""
    for line in lines:
        characters.update(line)
        yield line


def removals(characters: Counter[str], tokenizer: Tokenizer, lowercase: bool, strip_accents: bool) -> list[str]:
    """Return sentences on the characters that the tokens of a text no longer distinguish, with their counts."""
    said = [] if lowercase or strip_accents else ["case and accents are kept, so words remain distinct"]
    if lowercase:
        said += sentence("--lowercase changes", changes(characters, lowercase=True))
    if strip_accents:
        said += sentence("--strip-accents changes", changes(characters, strip_accents=True))
    said += sentence("BERT's cleaning removes", changes(characters, clean_text=True))
    return said + sentence("the vocabulary has no room for", unknown(characters, tokenizer), "; raise --size")


def changes(characters: Counter[str], **rule: bool) -> Counter[tuple[str, str]]:
    """Count the characters that one rule of BERT's normalizer changes, with the result.

    Compared in NFC: a letter that is only split into several characters, as in Hangul, loses nothing.
    """
    normalizer = BertNormalizer(**PLAIN | rule)
    found = Counter[tuple[str, str]]()
    for character, count in characters.items():
        after = normalizer.normalize_str(character)
        if not character.isspace() and unicodedata.normalize("NFC", after) != unicodedata.normalize("NFC", character):
            found[character, after] += count
    return found


def unknown(characters: Counter[str], tokenizer: Tokenizer) -> Counter[tuple[str, str]]:
    """Count the characters that the tokenizer does not know."""
    kinds = [character for character in characters if not character.isspace()]
    pieces = dict(zip(kinds, tokenizer.encode_ids(kinds), strict=True))
    return Counter({(kind, "[UNK]"): characters[kind] for kind in kinds if tokenizer.unk_id in pieces[kind]})


def sentence(start: str, found: Counter[tuple[str, str]], end: str = "") -> list[str]:
    """Return one sentence in a list, or [] if nothing was found."""
    if not found:
        return []
    shown = [f"{name(before)} → {name(after)} ({count:,})" for (before, after), count in found.most_common(EXAMPLES)]
    more = ", …" if len(found) > EXAMPLES else ""
    distinct = f"{found.total():,} characters ({len(found):,} distinct)"
    return [f"{start} {distinct}: {', '.join(shown)}{more}{end}"]


def name(text: str) -> str:
    """Return a character in a visible form: a combining mark on a circle, a format character by its number."""
    if not text:
        return "nothing"
    kind = unicodedata.category(text[0])[0]
    return f"U+{ord(text[0]):04X}" if kind == "C" else f"◌{text}" if kind == "M" else text
