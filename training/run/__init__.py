"""What every run stands on: its directory, what it starts from, files, recipes, arithmetic and processes."""
