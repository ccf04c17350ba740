"""Runs graphs on threads with a small stack: small_stack.py LIBRARY DIRECTORY KILOBYTES reads and writes in DIRECTORY.

The threads of ONNX Runtime get as much as `ulimit -s` says, and the one that calls it gets KILOBYTES.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime


def run(library: str, graph: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.register_custom_ops_library(library)
    inputs = dict(np.load(graph.with_suffix(".in.npz")))
    found = onnxruntime.InferenceSession(str(graph), options).run(None, inputs)
    np.savez(graph.with_suffix(".out.npz"), *found)


def run_all(library: str, directory: Path) -> None:
    """Run each graph on a new thread, which has no scratch block yet."""
    for graph in sorted(directory.glob("*.onnx")):
        sys.stderr.write(f"{graph.stem}\n")  # the last one that a crash shows
        with ThreadPoolExecutor(1) as thread:
            thread.submit(run, library, graph).result()


if __name__ == "__main__":
    threading.stack_size(int(sys.argv[3]) << 10)
    run_all(sys.argv[1], Path(sys.argv[2]))
