"""Finetuning: one or several heads on one encoder learn from labeled examples."""
