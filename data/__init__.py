"""Datasets: the embedded one, readers for real ones, checks. Imports no torch at module level."""
