"""What is printed is what was meant."""

import json

from spadecli.cli.ui import UI


def test_colons_are_no_pictures(capsys):
    UI().note("--mix a.jpg:x: and :smile:")
    assert capsys.readouterr().err == "--mix a.jpg:x: and :smile:\n"


def test_json_has_null_for_what_is_not_finite(capsys):
    data = {"ratio": float("nan"), "rows": ({"x": float("inf")}, [1.5, -float("inf")]), "name": "naïve"}
    UI(as_json=True).result(data)
    text = capsys.readouterr().out
    found = json.loads(text, parse_constant=lambda name: 1 / 0)
    assert found == {"ratio": None, "rows": [{"x": None}, [1.5, None]], "name": "naïve"}


def test_narrow_terminals_cost_no_digits(capsys, monkeypatch):
    from rich.table import Table

    monkeypatch.setenv("COLUMNS", "40")
    table = Table(box=None, pad_edge=False)
    for name in ("a distance with a long name " * 2, "its value"):
        table.add_column(name.strip(), no_wrap=True)
    table.add_row("Fréchet distance", "1234.5678 ± 0.0123")
    UI().result({}, [], (table,))
    assert "1234.5678 ± 0.0123" in capsys.readouterr().out
