"""Distillation: a network learns from a better one besides the labels (docs/distillation.md)."""
