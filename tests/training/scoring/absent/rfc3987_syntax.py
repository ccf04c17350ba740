"""Stands in for a package as if it were not installed: jsonschema imports it if it can, and it builds its grammar then."""

raise ImportError("not for Ray")
