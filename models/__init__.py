"""What a model is: encoder and heads, the tasks they answer, the tokenizer, checkpoints and bundles.

Only `encoder`, `heads` and `checkpoint` import torch; everything that serving needs does not.
"""

import os

# ONNX Runtime's official builds report to their maker unless this is set when the library is first imported, so here,
# before any module of ours can import it. Set it to 0 to let them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
