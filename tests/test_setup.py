"""`make setup`, with a stand-in for the interpreter that notes what pip is asked for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

INTERPRETER = """#!/bin/sh
case "$*" in
  -) cat >/dev/null; exit {torch} ;;
  "-m pip --version") exit 0 ;;
  *) echo "$@" >>pip.log ;;
esac
"""


def clone(folder: Path, torch_is_there: bool) -> Path:
    for name in ("Makefile", ".ci", "pyproject.toml", "constraints.txt"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(INTERPRETER.format(torch=int(not torch_is_there)))
    python.chmod(0o755)
    return folder


def setup(folder: Path) -> str:
    return subprocess.run(["make", "setup"], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("torch_is_there", [True, False])
def test_a_suitable_torch_is_kept_and_else_the_pinned_one_is_taken(tmp_path, torch_is_there):
    folder = clone(tmp_path, torch_is_there)
    assert ("keeping the installed torch" in setup(folder)) == torch_is_there
    (line,) = (folder / "pip.log").read_text().splitlines()
    words = line.split()
    pins = (folder / words[words.index("--constraint") + 1]).read_text()
    assert ("torch==2.13.0" in pins.splitlines()) == (not torch_is_there)
    assert "numpy==" in pins
    assert words[-2:] == ["--editable", ".[dev]"]


def test_a_second_call_does_no_work_until_the_pins_change(tmp_path):
    folder = clone(tmp_path, torch_is_there=True)
    setup(folder)
    log = folder / "pip.log"
    before = log.read_text()
    setup(folder)
    assert log.read_text() == before
    # dated after the end of set-up: make sees no change within one tick of the file system's clock
    later = (folder / ".venv" / ".ready").stat().st_mtime + 1
    os.utime(folder / "constraints.txt", (later, later))
    setup(folder)
    assert log.read_text() == before * 2
