"""Shared by everything that computes with torch: devices, precision, and helpers for hand-written derivatives."""
