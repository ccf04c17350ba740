"""Stands in for a package as if it were not installed: jsonschema takes it if it can, and it builds a grammar then."""

raise ImportError("not for Ray")
