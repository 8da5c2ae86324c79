"""The parts of ``spade score``: sets, protocol, distances, segmentation, diversity, report, comparison."""
