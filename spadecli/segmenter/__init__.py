"""The segmenter that scores renders: network, training, files, and the other kinds that stand in for it."""
