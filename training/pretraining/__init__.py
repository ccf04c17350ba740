"""Pretraining: an encoder learns from a corpus, by masked tokens and next sentences, or from a teacher."""
