"""The parts of ``spade stylize`` and ``spade styles``: references, encoding, combining, the report, the sheet."""
