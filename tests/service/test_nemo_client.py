"""If this breaks, NeMo Guardrails does not understand the service, or lets through what it should block."""

import json
import subprocess
from typing import Any

import pytest

from tests.programs import python_with
from tests.service.serving import Served
from tests.service.test_routes import same

PACKAGE = "nemoguardrails==0.24.1"
TEXT = "The cat sat on the mat, and the dog slept."
LONG = "the cat sat on the mat. " * 40
SCRIPT = """
import asyncio, json, sys
from nemoguardrails import RailsConfig
from nemoguardrails.library.hf_classifier.actions import _classify_and_check
from nemoguardrails.library.hf_classifier.backends import get_backend

url, texts = sys.argv[1], json.loads(sys.argv[2])
CONFIG = '''
models: []
rails:
  config:
    hf_classifier:
'''
ENGINES = ("vllm", "fms", "kserve")
for engine in ENGINES:
    for name, threshold in (("pass", 1.0), ("block", 0.0)):
        CONFIG += f"      {engine}-{name}: {{engine: {engine}, model: sentiment, base_url: '{url}', " \\
                  f"blocked_labels: [negative, positive], threshold: {threshold}}}\\n"
CONFIG += f"      none: {{engine: vllm, model: none, base_url: '{url}', blocked_labels: [x]}}\\n"

async def main():
    config, found = RailsConfig.from_content(yaml_content=CONFIG), {}
    classifiers = config.rails.config.hf_classifier
    for engine in ENGINES:
        backend = get_backend(classifiers[f"{engine}-block"], name=f"{engine}-block")
        found[engine] = [await backend.classify(text) for text in texts]
        found[f"{engine}-allowed"] = [
            await _classify_and_check(f"{engine}-{name}", texts[0], config) for name in ("pass", "block")
        ]
    try:
        await _classify_and_check("none", texts[0], config)
    except ValueError as error:
        found["error"] = str(error)
    print(json.dumps(found))

asyncio.run(main())
"""


def scores(served: Served, text: str, **parameters: Any) -> list[dict[str, Any]]:
    labels: list[list[dict[str, Any]]] = served.answer("/classify/sentiment", text, **parameters)
    return labels[0]


@pytest.mark.slow
def test_all_engines_classify_and_block(served: Served) -> None:
    command = [str(python_with("nemo", PACKAGE)), "-c", SCRIPT, served.url, json.dumps([TEXT, LONG])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(result.stdout.splitlines()[-1])
    short, long = scores(served, TEXT), scores(served, LONG, truncation="windows")
    assert same(found["vllm"], [short[:1], long[:1]])
    assert same(found["fms"], [short, long])
    assert same(found["kserve"], [short, scores(served, LONG)])
    for engine in ("vllm", "fms", "kserve"):
        assert found[f"{engine}-allowed"] == [True, False]
    assert "there is no head 'none' for /classify" in found["error"]
