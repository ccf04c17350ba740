"""Text and labels: examples, documents, vocabularies, and the corpus that pretraining reads."""
