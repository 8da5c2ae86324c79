from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from extractors import Tiny, save
from pictures import photographs

from spadecli.cli.app import main
from spadecli.commands.score import inception

HELD = ["a", "b", "c"]


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line that scores three renders against three of ten photographs."""
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "renders", HELD, seed=1)
    photographs(tmp_path / "photos", [*HELD, *"defghij"], seed=2)
    save(tmp_path / "tiny.pt", Tiny())
    return ["--real", "photos", "--only", "a,b", "--only", "c", "--extractor", "tiny.pt", "--cache", "cache"]


def run(*words: str) -> int:
    """Exit code of ``spade score`` with these words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spade", "score", *words])
        with pytest.raises(SystemExit) as e:
            main()
    return int(e.value.code or 0)


def test_the_terminal_shows_distances_floor_and_protocol(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*line) == 0
    out, err = capsys.readouterr()
    assert "Fréchet distance (tiny) " in out
    assert "floor: 3 other photographs" in out
    assert "set: 3 names" in out
    assert "compared at: 24x32, bicubic" in out
    assert "FID" not in out
    assert "1/4 to 1/2 cycle a pixel" in out
    assert "photographs" in out
    assert "sharpness, light and colours: beside 3 photographs from photos at 24x32" in out
    assert "warning: 3 pictures are few for 18 dimensions" in err
    assert Path("renders/scores.h5").is_file()


def test_json_holds_the_whole_result(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*line, "--json", "-q") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == ""
    assert result["distances"][0]["frechet"] > 0
    assert result["distances"][0]["floor"]["count"] == 3
    assert result["protocol"]["distances"][0]["real_count"] == 3
    assert result["path"] == "renders/scores.h5"
    assert [result["look"][name]["pictures"] for name in ("renders", "photos")] == [3, 3]


def test_the_floor_alone_needs_no_renders(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nowhere", *line, "--floor-only", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["distances"][0]["frechet"] is None
    assert result["distances"][0]["floor"]["frechet_mean"] > 0
    assert result["path"] is None


def test_a_dry_run_writes_nothing(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*line, "--dry-run") == 0
    assert "set: 3 names" in capsys.readouterr().out
    assert not Path("cache").exists()
    assert not Path("renders/scores.h5").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--only", "x,y"], 2, "2 of 5 names have no picture"),
        (["--size", "12"], 2, "size '12'"),
        (["--extractor", "nowhere.pt"], 2, "no such extractor file"),
        (["--inception", "tiny.pt"], 2, "exclude each other"),
    ],
)
def test_exit_codes(
    line: list[str], capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert run(*line, *words) == code
    assert message in capsys.readouterr().err


def test_without_an_extractor_it_says_where_to_get_one(
    line: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception, "URL", "file:///nowhere/inception.pt")
    at = line.index("--extractor")
    assert run(*line[:at], *line[at + 2 :]) == 3
    assert "inception-2015-12-05.pt" in capsys.readouterr().err


def test_without_renders_it_says_how_to_make_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run() == 2
    assert "spade render masks/ --samples 4 makes some" in capsys.readouterr().err


def test_photographs_that_do_not_pair(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    photographs(Path("strangers"), ["x", "y", "z"])
    words = ["--real", "strangers", "--extractor", "tiny.pt", "--cache", "cache"]
    assert run(*words) == 2
    assert "no photograph is named as a render's mask" in capsys.readouterr().err
    assert run(*words, "--unpaired", "-q") == 0
