"""Readers of data files, one per format: each yields the records of a file, and knows nothing of tasks."""
