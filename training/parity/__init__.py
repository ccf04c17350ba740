"""Parity: compares the answers of a bundle with those of PyTorch, and decides whether it may be exported."""
