"""Distinct label windows: found once for a batch of maps, then used by training and by inference."""
