"""Finetuning: one or several heads on one encoder learn from labelled examples."""
