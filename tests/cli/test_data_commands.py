"""``spade pack`` and ``spade inspect`` as typed: exit codes, stdout, stderr."""

import json
import sys

import numpy as np
import pytest
from files import data_set, save

from spadecli.cli.app import main


@pytest.fixture
def spade(tmp_path, monkeypatch, capsys):
    """Run a line in a folder with a small data set: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    data_set(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["spade", *arguments])
        with pytest.raises(SystemExit) as e:
            main()
        captured = capsys.readouterr()
        return e.value.code, captured.out, captured.err

    return run


def test_pack(spade, tmp_path):
    code, out, err = spade("pack")
    assert code == 0
    assert "packed.h5: 3 pairs at 32x32, written" in out
    assert "label space three" in err
    code, out, _ = spade("pack", "photos", "masks", "--json")
    report = json.loads(out)
    assert (code, report["up_to_date"], report["classes"][2]["images"]) == (0, True, 1)
    code, out, err = spade("pack", "-q")
    assert (code, err) == (0, "")


def test_pack_help_example_works_as_typed(spade, tmp_path):
    code, _, _ = spade("pack", "photos/", "masks/", "--recipe", "recipe.toml", "-o", "packed.h5")
    assert code == 0


def test_pack_exit_codes(spade, tmp_path):
    save(tmp_path / "masks" / "b.png", np.full((12, 16), 9, np.uint8))
    save(tmp_path / "masks" / "x.png", np.zeros((12, 16), np.uint8))
    code, out, err = spade("pack")
    assert (code, out) == (2, "")
    assert "value 9: 192 pixels" in err
    assert "x.png: no photo of that name" in err
    code, _, err = spade("pack", "--json")
    assert code == 2
    assert len(json.loads(err.splitlines()[-1])["problems"]) == 2
    code, out, err = spade("pack", "--skip-bad")
    assert code == 4
    assert "2 pairs at 32x32, written" in out
    assert "left out" in err
    assert spade("pack", "--size", "banana")[0] == 2
    assert spade("pack", "--size", "native")[0] == 2


def test_inspect(spade, tmp_path):
    code, out, _ = spade("inspect", "masks/")
    assert code == 0
    assert "masks: 3" in out
    code, out, _ = spade("inspect", "masks/a.png", "--recipe", "recipe.toml")
    assert code == 0
    assert "fits recipe three" in out
    code, out, _ = spade("inspect", "recipe.toml", "--json")
    assert (code, json.loads(out)["kind"]) == (0, "recipe")
    save(tmp_path / "masks" / "b.png", np.full((12, 16), 9, np.uint8))
    code, _, err = spade("inspect", "masks/", "--recipe", "recipe.toml")
    assert code == 2
    assert "b.png" in err
