"""One command from labelled data to a bundle that can be served."""
