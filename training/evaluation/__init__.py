"""Evaluation: predictors, figures, reports, and labeling."""
