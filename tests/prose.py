"""Words per sentence of pages: python -m tests.prose [PAGE.md]...

Code blocks, tables and headings are left out. A sentence ends at a full stop, a question mark, an exclamation mark, a
colon at the end of a line, or the end of a paragraph or list item.
"""

import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pages() -> list[Path]:
    """Return all pages for people; logs of experiments and model cards, which export writes, are left out."""
    skipped = {"tests", "models", "dev"}
    found = (page.relative_to(ROOT) for page in ROOT.rglob("*.md"))
    return sorted(ROOT / page for page in found if page.parts[0] not in skipped and not page.parts[0].startswith("."))


def sentences(text: str) -> list[str]:
    """Return the sentences of a page in Markdown."""
    text = re.sub(r"^```.*?^```", "\n\n", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not re.match(r"\s*(\||#|!\[|<)", line)]
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.)\s)", "\n".join(lines))
    return [part for block in blocks for part in _parts(block) if re.search(r"\w", part)]


def _parts(block: str) -> list[str]:
    plain = re.sub(r"`[^`]*`", "code", re.sub(r"\]\([^)]*\)", "]", block))
    return re.split(r"(?<=[.?!])[)*_\"]*\s+(?=[\"(*_\[A-Z0-9`c])|:\s*\n", plain.strip())


def lengths(page: Path) -> list[int]:
    """Return the words of each sentence of a page."""
    return [len(re.findall(r"[\w'’.,%/+-]*\w[\w'’%]*", sentence)) for sentence in sentences(page.read_text("utf8"))]


def main() -> None:
    """Print mean, 90th percentile and maximum of each page, and of all."""
    chosen = [Path(name).resolve() for name in sys.argv[1:]] or pages()
    every = []
    for page in chosen:
        found = lengths(page)
        every += found
        sys.stdout.write(f"{_figures(found)}  {page.relative_to(ROOT)}\n")
        if sys.argv[1:]:
            for sentence in sorted(sentences(page.read_text("utf8")), key=lambda s: -len(s.split()))[:12]:
                sys.stdout.write(f"    {len(sentence.split())}: {' '.join(sentence.split())}\n")
    sys.stdout.write(f"{_figures(every)}  all\n")


def _figures(found: list[int]) -> str:
    tenth = statistics.quantiles(found, n=10)[-1] if len(found) > 1 else found[0]
    return f"mean {statistics.mean(found):5.1f}, p90 {tenth:5.1f}, most {max(found):3}"


if __name__ == "__main__":
    main()
