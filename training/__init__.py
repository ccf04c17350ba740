"""From raw text and labels to a bundle: corpus, pretraining, finetuning, evaluation, export."""

import models  # noqa: F401  (it keeps ONNX Runtime quiet, and has to come before ONNX Runtime)
