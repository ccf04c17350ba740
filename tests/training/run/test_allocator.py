"""If this fails, large tensors are mapped and faulted in again at every step."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from training.run.allocator import keep_pages
if sys.argv[1] == "kept":
    assert keep_pages()
weight = torch.randn(30_000, 8, requires_grad=True)

def step():
    logits = torch.randn(400, 8) @ weight.T  # 48 MB, as are their softmax and their gradient
    torch.nn.functional.cross_entropy(logits, torch.zeros(400, dtype=torch.int64)).backward()
    weight.grad = None

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    step()
before = faults()
for _ in range(4):
    step()
print(faults() - before)
"""


def page_faults(memory: str) -> int:
    run = subprocess.run([sys.executable, "-c", FAULTS, memory], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.slow
def test_memory_of_a_step_serves_the_next() -> None:
    assert page_faults("kept") < 0.3 * page_faults("mapped anew")
