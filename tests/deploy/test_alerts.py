"""If this breaks, Prometheus refuses its configuration, or nobody is woken when the service is down."""

import subprocess
from pathlib import Path

import pytest

from tests.programs import program

HERE = Path(__file__).parent
DEPLOY = HERE.parents[1] / "deploy"


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", str(DEPLOY / "prometheus/prometheus.yml")),
        ("check", "rules", str(DEPLOY / "prometheus/alerts.yml")),
        ("test", "rules", str(HERE / "alerts.yml")),
        ("test", "rules", str(HERE / "alerts_slow.yml")),
    ],
    ids=["configuration", "rules", "minutes", "weeks"],
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    result = subprocess.run([program("promtool", package="prometheus"), *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
