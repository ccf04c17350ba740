"""Exporting: turns a checkpoint, or a Hugging Face directory, into a bundle of ONNX graphs."""
