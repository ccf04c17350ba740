"""Readers of data files, one per format: each yields the records of a file, independent of tasks."""
