"""Metrics, comparison, and the accuracy-drop report."""
