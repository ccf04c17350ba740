"""One command from labeled data to a bundle that can be served."""
