"""The segmenter that scores renders: network, training and files, and foreign segmenters in its place."""
