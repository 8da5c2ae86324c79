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
