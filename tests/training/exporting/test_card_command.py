"""If these fail, correcting a text needs a measurement, or writing a card changes what is served."""

from pathlib import Path

import pytest

from models.bundle import Bundle, read_bundle
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.models import bundles
from training.__main__ import main
from training.exporting.export import ExportOptions, export
from training.exporting.model_card import text_of

MOOD = {"mood": HeadSpec("classify", ["bad", "good"])}


@pytest.fixture
def bundle(tokenizer: Tokenizer, tmp_path: Path) -> Bundle:
    checkpoint = bundles.checkpoint(tokenizer, MOOD)
    return export(checkpoint, tmp_path / "tiny", ExportOptions("tiny", budget=bundles.ANY_LOSS))


def hashes(bundle: Bundle) -> dict[str, str]:
    return {name: digest for name, digest in bundle.manifest.sha256.items() if name != "README.md"}


def test_a_new_text_changes_the_card_alone(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (bundle.directory / "README.md").read_text(encoding="utf8")
    (tmp_path / "text.md").write_text("---\nlicense: mit\n---\nMine.\n", encoding="utf8")
    main(["card", str(bundle.directory), "--card", str(tmp_path / "text.md")])
    after = read_bundle(bundle.directory)
    card = (bundle.directory / "README.md").read_text(encoding="utf8")
    assert text_of(card) == "Mine." and "license: mit" in card and hashes(after) == hashes(bundle)
    assert after.manifest.provenance == bundle.manifest.provenance
    assert card.partition("## Data")[2] == before.partition("## Data")[2]
    assert capsys.readouterr().out.endswith(f"again: python -m training parity {bundle.directory}\n")


def test_without_a_text_the_old_one_stays(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "text.md").write_text("Mine.\n", encoding="utf8")
    main(["card", str(bundle.directory), "--card", str(tmp_path / "text.md")])
    before = (bundle.directory / "README.md").read_bytes()
    main(["card", str(bundle.directory)])
    assert (bundle.directory / "README.md").read_bytes() == before


def test_a_missing_text_leaves_the_bundle_as_it_is(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["card", str(bundle.directory), "--card", "nowhere.md"])
    assert "nowhere.md does not exist, expected the text of a model card" in capsys.readouterr().err
    assert read_bundle(bundle.directory).manifest == bundle.manifest
