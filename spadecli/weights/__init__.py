"""Weights files, their cards, and import from other formats."""
