"""If these fail, int8 answers depend on the kernels, the processor or the batch."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import onnx_runtime
from models.bundle import read_bundle
from models.session import Session
from models.tokenizer import Tokenizer
from service.settings import STARTER
from tests.kernels.libraries import ROOT, compiled, compiler
from tests.kernels.sessions import LEFT_OUT, opening_with
from tests.models import bundles


def test_every_head_answers_alike(library: Path) -> None:
    """On any processor; a vocabulary is wider than any other input of an operator."""
    bundle, generator = read_bundle(STARTER), np.random.default_rng(10)
    rows = [bundles.random_row(bundle, generator, length) for length in (3, 40)]
    items = [(name, row) for row in rows for name in bundle.manifest.heads]
    found = []
    for each in (library, LEFT_OUT):
        with opening_with(each):
            found.append(Session(bundle).run(items))
    for mine, theirs in zip(*found, strict=True):
        assert np.linalg.norm(mine - theirs) <= 0.15 * np.linalg.norm(theirs)


ALL_HEADS = """
import sys
from pathlib import Path
from models import onnx_runtime
from models.bundle import read_bundle
from models.row import Row
from models.session import Session
from service.settings import STARTER

onnx_runtime.KERNELS = Path(sys.argv[1])
session = Session(read_bundle(STARTER), wide_threads=2)
assert onnx_runtime.find_kernels() and not session.pads
session.warm_up()
session.run([(head, Row([5] * length, [0] * length, [0, length - 1])) for length in (3, 70) for head in session._heads])
"""


@pytest.mark.slow
def test_kernels_have_no_undefined_behavior() -> None:
    """Compiled with traps for it. For example, the constants of a graph may be unaligned."""
    library = compiled("trapping", "-O1 -fsanitize=undefined -fsanitize-undefined-trap-on-error -Wno-pass-failed")
    subprocess.run([sys.executable, "-c", ALL_HEADS, library], check=True, cwd=ROOT)


def test_a_library_that_cannot_be_loaded_is_reported_and_not_used(
    tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = bundles.make(tokenizer, tmp_path / "tiny", ("int8",))
    row = bundles.random_row(bundle, np.random.default_rng(3), 20)
    expected = Session(bundle).run([("nli", row)])[0]
    broken = tmp_path / "kernels.so"
    for problem in ("is missing", "does not load"):
        with opening_with(broken), caplog.at_level(logging.WARNING):
            np.testing.assert_allclose(Session(bundle).run([("nli", row)])[0], expected, atol=0.05)
        assert problem in caplog.text
        broken.write_text("no library")


def test_the_installed_library_exists() -> None:
    """If there is a compiler, installation uses it, so tests run what is served."""
    compiler()
    assert onnx_runtime.find_kernels() == onnx_runtime.KERNELS
