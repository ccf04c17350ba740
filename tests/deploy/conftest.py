"""What several tests of manifests share."""

import pytest

from tests.deploy.manifests import COMPONENTS, KSERVE, KUBERNETES, OVERLAYS, Document, build, kustomization


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Document]]:
    """All manifests by where they come from; each component is on top of the base."""
    found = {name: build(KUBERNETES / name) for name in OVERLAYS}
    for name in COMPONENTS:
        overlay = kustomization(tmp_path_factory.mktemp(name), [KUBERNETES / "components" / name])
        found[name] = build(overlay)
    return found | {"kserve": KSERVE}
