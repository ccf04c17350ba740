"""If this breaks, a pinned or canary version answers others, or the shadow is noticed or compares the wrong things."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import SettingsError
from service.heads import load_heads
from service.settings import Settings
from tests.service.reloading import TEXT, controlled
from tests.service.serving import Served, until


@pytest.fixture
def served(root: Path) -> Iterator[Served]:
    with controlled(root, root / "tiny" / "1.0.0") as served:
        yield served


def test_a_header_pins_a_version(root: Path) -> None:
    settings = {"canary": root / "tiny" / "2.0.0", "canary_percent": 0}
    with controlled(root, root / "tiny" / "1.0.0", lanes=1, **settings) as served:
        for pin in ("tiny/1.0.0", "tiny/2.0.0"):
            response = served.client.post("/classify", json={"inputs": TEXT}, headers={"X-Bundle": pin})
            assert response.headers["X-Bundle"] == pin
        missing = served.client.post("/classify", json={"inputs": TEXT}, headers={"X-Bundle": "tiny/7"})
        assert missing.status_code == 404 and "tiny/1.0.0, tiny/2.0.0" in missing.json()["detail"]
        assert served.post("/classify", TEXT).headers["X-Bundle"] == "tiny/1.0.0"


# ---- canary and shadow ---------------------------------------------------------------------------------------------


def test_a_canary_answers_its_part(root: Path) -> None:
    settings = {"canary": root / "tiny" / "2.0.0", "canary_percent": 30, "canary_by": "X-User"}
    with controlled(root, root / "tiny" / "1.0.0", root / "other" / "1.0.0", **settings) as served:

        def bundle(user: int, route: str = "/classify/sentiment") -> str:
            headers = {"X-User": f"user-{user}"}
            response = served.client.post(route, json={"inputs": TEXT}, headers=headers)
            return str(response.headers["X-Bundle"])

        found = [bundle(user) for user in range(200)]
        assert 40 < found.count("tiny/2.0.0") < 80
        assert [bundle(user) for user in range(50)] == found[:50], "a user stays where he is"
        assert {bundle(user, "/classify/intent") for user in range(50)} == {"other/1.0.0"}
        assert 0 < sum(served.post("/classify", TEXT).headers["X-Bundle"] == "tiny/2.0.0" for _ in range(60)) < 60


def test_a_canary_with_another_task_is_refused_at_the_start(root: Path) -> None:
    settings = Settings(bundles=(root / "tiny" / "1.0.0",), canary=root / "tiny" / "other-task")
    with pytest.raises(SettingsError, match="'ner' is for /tag .* rename it"):
        load_heads(settings, print)


def test_a_shadow_is_compared_and_never_noticed(root: Path) -> None:
    inputs = [f"the cat sat on mat {number}" for number in range(8)]
    with controlled(root, root / "tiny" / "1.0.0", shadow=root / "tiny" / "1.0.0") as served:
        assert served.post("/classify", inputs).headers["X-Bundle"] == "tiny/1.0.0"
        until(lambda: served.sample("shadow_inputs_total", head="sentiment") == 8)
        assert served.sample("shadow_disagreements_total", head="sentiment") == 0
    with controlled(root, root / "tiny" / "1.0.0", shadow=root / "tiny" / "2.0.0") as served:
        for path in ("/classify", "/tag"):
            assert served.post(path, inputs).headers["X-Bundle"] == "tiny/1.0.0"
            head = {"/classify": "sentiment", "/tag": "ner"}[path]
            until(lambda head=head: served.sample("shadow_inputs_total", head=head) == 8)
            assert served.sample("shadow_score_difference_sum", head=head) > 0
        assert served.sample("shadow_disagreements_total", head="ner") > 0
        encode = served.service.heads.shadow.heads[0].task  # type: ignore[union-attr]
        encode.encode = None  # type: ignore[method-assign]
        assert served.post("/classify", inputs).status_code == 200


def test_a_shadow_compares_what_was_asked_for(root: Path) -> None:
    scores = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]}
    scores["outputs"] = [{"name": "scores"}]
    with controlled(root, root / "tiny" / "1.0.0", shadow=root / "tiny" / "1.0.0") as served:
        served.answer("/tag", TEXT, redact=True)
        until(lambda: served.sample("shadow_score_difference_count", head="ner") == 1)
        assert served.client.post("/v2/models/sentiment/infer", json=scores).status_code == 200
        until(lambda: served.sample("shadow_score_difference_count", head="sentiment") == 1)
        assert served.sample("shadow_disagreements_total", head="ner") == 0
        assert served.sample("shadow_disagreements_total", head="sentiment") == 0
    with controlled(root, root / "tiny" / "1.0.0", shadow=root / "tiny" / "2.0.0") as served:
        served.answer("/tag", [TEXT] * 4, redact=True)
        until(lambda: served.sample("shadow_score_difference_count", head="ner") == 4)


# ---- other triggers ------------------------------------------------------------------------------------------------
