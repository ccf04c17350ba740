"""Parity: what a bundle answers beside what PyTorch answers, on which data, and whether it may be exported."""
