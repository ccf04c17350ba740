"""Converts other schemes of span tags to BIO.

IOB1     B- only if a span follows another of its type (CoNLL-2003; Ramshaw and Marcus, 1995)
BIOES    the last word is E-, a single word S-; BILOU names these L- and U-; BMEWO names them E- and W-, and words
         between M-
"""

import re
from collections.abc import Iterator, Sequence

SPAN_TAG = re.compile(r"([BIMELSUW])-(.+)")
ENDS, ALONE = "EL", "SUW"


def to_bio(sentences: Sequence[Sequence[str]]) -> tuple[list[list[str]], int, str]:
    """Return the tags of a file in BIO, the number that changed, and the name of their scheme.

    Plain tags (parts of speech) stay as they are. So does an invalid tag among span tags, which the reader refuses.
    """
    scheme = scheme_of(sentences)
    if not scheme:
        return [list(tags) for tags in sentences], 0, ""
    found = [list(_bio(tags)) for tags in sentences]
    changed = sum(
        old != new for before, tags in zip(sentences, found, strict=True) for old, new in zip(before, tags, strict=True)
    )
    return found, changed, scheme


def scheme_of(sentences: Sequence[Sequence[str]]) -> str:
    """Name the scheme of a file; "" for plain tags."""
    tags = {tag for sentence in sentences for tag in sentence}
    prefixes = {found.group(1) for tag in tags if (found := SPAN_TAG.fullmatch(tag))}
    if not prefixes or not ({"B", "I"} & prefixes or all(tag == "O" or SPAN_TAG.fullmatch(tag) for tag in tags)):
        return ""
    for letters, name in (("LU", "BILOU"), ("MW", "BMEWO or BMES"), ("ES", "BIOES")):
        if set(letters) & prefixes:
            return name
    return "IOB1" if all(map(_is_iob1, sentences)) else "BIO with spans that begin with I-"


def _is_iob1(tags: Sequence[str]) -> bool:
    """Tell whether B- occurs only after a word of its own type."""
    pairs = zip(["O", *tags], tags, strict=False)
    return all(before[2:] == tag[2:] for before, tag in pairs if tag.startswith("B-"))


def _bio(tags: Sequence[str]) -> Iterator[str]:
    inside = ""  # the type of the span that may continue here
    for tag in tags:
        found = SPAN_TAG.fullmatch(tag)
        if not found:
            inside = ""
            yield tag
            continue
        prefix, name = found.groups()
        begins = prefix == "B" or prefix in ALONE or name != inside
        yield f"{'B' if begins else 'I'}-{name}"
        inside = "" if prefix in ENDS + ALONE else name
