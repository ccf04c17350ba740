"""Scoring of files: each row of the input becomes one row of the output, with an answer or an error. Needs no torch."""
