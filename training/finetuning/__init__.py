"""Finetuning: heads learn from labelled examples, one alone or several on one encoder."""
