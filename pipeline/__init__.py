"""Recipes: one whole compression run as checked YAML, resumable, each stage keyed by content hashes."""
