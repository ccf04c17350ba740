"""If these fail, the command says that a service loaded a bundle when it did not, or hides the reason."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from models.bundle import Bundle
from models.tokenizer import Tokenizer
from tests.models.bundles import HEADS, checkpoint, make
from tests.service.serving import serving
from training.errors import EvaluationError
from training.exporting.export import ExportOptions, export
from training.head.base import Base
from training.head.serving import commands, load, name_and_version


@pytest.fixture(scope="module")
def mine(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of one head, at ROOT/NAME/VERSION."""
    out = tmp_path_factory.mktemp("root") / "mine" / "1.0.1"
    made = checkpoint(tokenizer, {"mine": HEADS["sentiment"]})
    return export(made, out, ExportOptions("mine", "1.0.1", precisions=("fp32",)))


def test_commands_name_the_base_only_where_it_can_stand_beside(
    tokenizer: Tokenizer, mine: Bundle, tmp_path: Path
) -> None:
    base = Base.read(make(tokenizer, tmp_path / "tiny", ("int8",)).directory)
    beside, alone, ask = commands(mine, base)
    assert beside.endswith(f"--bundle {tmp_path / 'tiny'} --bundle {mine.directory}")
    assert alone.endswith(f"--bundle {mine.directory}") and "/classify/mine" in ask
    assert len(list(commands(mine, Base(**{**vars(base), "heads": frozenset({"mine"})})))) == 2
    assert name_and_version(mine.directory) == ("mine", "1.0.1")


def test_a_service_that_is_not_there_loses_nothing(mine: Bundle) -> None:
    with pytest.raises(
        EvaluationError, match="does not answer as a service .*the bundle is complete: load it with POST"
    ):
        load("http://127.0.0.1:1", mine)


def test_a_running_service_serves_the_new_head(
    tokenizer: Tokenizer, mine: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, key = make(tokenizer, tmp_path / "tiny", ("fp32",)).directory, SecretStr("a-key-of-this-test")
    monkeypatch.setenv("BERTHEADS_API_KEY", key.get_secret_value())
    root = mine.directory.parents[1]
    with serving(base, bundle_root=root, model_control="explicit", api_key=key) as served:
        assert load(served.url, mine) == f"loaded: {served.url} serves mine/1.0.1"
        assert "score" in str(served.answer("/classify/mine", "the cat"))
    with serving(base, api_key=key) as served:
        with pytest.raises(
            EvaluationError, match=r"did not load mine/1\.0\.1 \(status 403: .*the bundle is complete at"
        ):
            load(served.url, mine)
