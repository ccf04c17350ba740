"""Models: encoder and heads, the tasks that they answer, the tokenizer, checkpoints and bundles.

Only `encoder`, `heads` and `checkpoint` import torch; everything that serving needs does not.
"""

import os

# ONNX Runtime's official builds send telemetry unless this is set before the library is first imported. Therefore it is
# set here, before any of our modules can import it. Set it to 0 to allow telemetry.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
