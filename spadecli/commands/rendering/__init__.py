"""The parts of ``spade render``: plan, load, pipeline, write, then the summary files."""
