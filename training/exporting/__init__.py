"""Exporting: a checkpoint, or a directory of Hugging Face, becomes a bundle of ONNX graphs."""
