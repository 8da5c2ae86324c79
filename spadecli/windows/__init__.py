"""Distinct label windows: found once per batch of label maps, used in training and in inference."""
