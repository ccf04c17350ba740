"""Writes the pictures of the playground that README shows: python -m tests.screenshot.

It serves the starter bundle on a free port, and needs Chromium.
"""

import logging
import sys
import tempfile
from pathlib import Path

from service.settings import STARTER
from tests.service.chromium import Page, chromium
from tests.service.serving import serving

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = {"light": DOCS / "page.png", "dark": DOCS / "page-dark.png"}
WIDTH, HEIGHT = 1280, 860
USUAL_PORT = "$('code').textContent = $('code').textContent.replace(/:[0-9]+/, ':8000'); document.activeElement.blur()"


def draw(page: Page, url: str, scheme: str) -> None:
    """Show an answer and its reasons."""
    page.resize(WIDTH, HEIGHT)
    page.prefer(scheme)
    page.call("Emulation.setScrollbarsHidden", hidden=True)
    page.open(f"{url}/#classify").answered()
    page.click("#why button")
    page.until("document.querySelector('#why table')")
    page.run(USUAL_PORT)


def main() -> None:
    """Write each picture, and say how large it is."""
    logging.disable(logging.CRITICAL)
    with (
        serving(STARTER) as served,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        chromium(Path(profile)) as browser,
    ):
        for scheme, file in PICTURES.items():
            page = browser.page()
            draw(page, served.url, scheme)
            page.picture(file)
            sys.stdout.write(f"{file}: {file.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
