"""The README's words hold: its recipe is valid, its commands and options exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from typer.testing import CliRunner

from spadecli.cli.app import COMMANDS, app
from spadecli.commands.convert.command import ConvertOptions, convert
from spadecli.commands.examples.command import ExamplesOptions, examples
from spadecli.core.recipe import load_recipe, shipped_weights

README = (ROOT / "README.md").read_text()
LINES = sorted(set(re.findall(r"(?:^\$ |^|`)(spade [a-z]+(?: [^\s`][^`\n]*)?)(?:`|$)", README, re.M)))


def test_the_recipe_for_own_data_is_valid(tmp_path):
    (block,) = re.findall(r"```toml\n(.*?)```", README, re.S)
    path: Path = tmp_path / "recipe.toml"
    path.write_text(block)
    assert len(block.strip().splitlines()) <= 10
    recipe = load_recipe(path).recipe
    assert recipe.name == "streets"
    assert recipe.labels.unknown_channel == 0


def test_the_lines_are_found():
    assert len(LINES) >= 8


@pytest.mark.parametrize("line", LINES)
def test_commands_and_options_exist(line):
    _, command, *words = shlex.split(line)
    assert command in {c.__name__ for c in COMMANDS}
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    for option in (w for w in words if w.startswith("-")):
        assert option in shown, f"{command} has no {option}"


def test_the_onnx_example_runs_without_this_package(tmp_path):
    example = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "onnxruntime" in block)
    assert "spadecli" not in example
    convert(ConvertOptions(shipped_weights(), tmp_path / "facades.onnx", to="onnx", verify=False))
    examples(ExamplesOptions(tmp_path))
    done = subprocess.run(
        [sys.executable, "-I", "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "window" in done.stdout
    assert len(list(tmp_path.glob("gables_*.png"))) == 4


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target
