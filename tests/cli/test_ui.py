"""What is printed is what was meant."""

from spadecli.cli.ui import UI


def test_colons_are_no_pictures(capsys):
    UI().note("--mix a.jpg:x: and :smile:")
    assert capsys.readouterr().err == "--mix a.jpg:x: and :smile:\n"
