"""Evaluation: predictors, figures, reports, and labelling."""
