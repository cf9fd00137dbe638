"""Prune, distill, quantize."""
