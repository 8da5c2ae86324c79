"""Rows of a run folder's .jsonl files."""

import json
import math

from spadecli.store.run_folder import append_row, read_rows


def test_rows_are_json_whatever_the_numbers(tmp_path):
    path = tmp_path / "stats.jsonl"
    append_row(path, {"step": 1, "g_norm": math.inf, "d_norm": math.nan, "name": "Straße"})
    append_row(path, {"step": 2, "g_norm": 0.5})

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = path.read_text(encoding="utf-8")
    assert [json.loads(line, parse_constant=refuse)["step"] for line in text.splitlines()] == [1, 2]
    assert "Straße" in text
    assert read_rows(path) == [
        {"step": 1, "g_norm": None, "d_norm": None, "name": "Straße"},
        {"step": 2, "g_norm": 0.5},
    ]
