"""``spade COMMAND -h`` fits a screen: a line for each option, the most used ones first."""

from __future__ import annotations

import re

import pytest
import typer
from typer.testing import CliRunner

from spadecli.cli.app import COMMANDS, app

NAMES = [c.__name__.replace("_", "-") for c in COMMANDS]
LONGEST = {"render": 40, "stylize": 42, "score": 61}


def lines(command: str) -> list[str]:
    shown = CliRunner().invoke(app, [command, "-h"], env={"COLUMNS": "100"})
    assert shown.exit_code == 0
    return shown.stdout.splitlines()


@pytest.mark.parametrize("command", NAMES)
def test_a_help_is_short(command: str) -> None:
    shown = lines(command)
    assert len(shown) <= LONGEST.get(command, 36)
    assert max(map(len, shown)) <= 100
    assert "env var" not in "".join(shown)
    assert not any(line.endswith(" ") for line in shown)
    wrapped = [line for line in shown if re.match(r" {12,}\S", line)]
    assert len(wrapped) <= 2, "texts of options are of one line"


@pytest.mark.parametrize("command", NAMES)
def test_a_help_holds_every_option(command: str) -> None:
    shown = "\n".join(lines(command))
    group = typer.main.get_command(app)
    for param in group.commands[command].params:
        for name in param.opts if param.param_type_name == "option" else [param.metavar]:
            assert (name.replace("--", "--[no-]") if param.secondary_opts else name) in shown


def test_panels_follow_the_options_that_are_used_first() -> None:
    shown = lines("render")
    first = shown.index("Input:")
    assert [re.search(r"--[a-z-]+", line)[0] for line in shown[first - 4 : first]] == [
        "--weights",
        "--out",
        "--samples",
        "--size",
    ]
    assert [line for line in shown if re.fullmatch(r"\w+:", line)] == ["Input:", "Sampling:", "Output:", "Speed:"]
    assert shown[-1].startswith("Common: --dry-run (check, write nothing), --json, -q/--quiet")


def test_defaults_and_switches() -> None:
    shown = "\n".join(lines("render") + lines("convert"))
    assert "--seed N           Same seed, same images. [default: 0]" in shown
    assert "-w, --weights FILE     Weights to render with. [default: shipped facades]" in shown
    assert re.search(r"--\[no-\]verify +Compare with torch; keep nothing that misses. \[default: yes\]", shown)
    assert not re.search(r"--overwrite.*default", shown)
