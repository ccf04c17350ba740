"""The basis of every run: its directory, its start weights, files, recipes, number formats and processes."""
