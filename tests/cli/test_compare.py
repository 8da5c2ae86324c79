"""``spade compare`` as typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pictures import photographs

from spadecli.cli.app import main


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folders of renders of three masks, in the current folder."""
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "renders", ["a", "b", "c"], seed=1)
    photographs(tmp_path / "other", ["a", "b", "c"], seed=5)


def run(*words: str) -> int:
    """Exit code of ``spade compare`` with these words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spade", "compare", *words])
        with pytest.raises(SystemExit) as e:
            main()
    return int(e.value.code or 0)


def vote(key: Path, name: str = "votes-x.json") -> None:
    study = json.loads(key.read_text())["study"]
    votes = [{"pair": i, "choice": "left"} for i in range(3)]
    Path(name).write_text(json.dumps({"format": "spade-compare-votes", "study": study, "ballot": "x", "votes": votes}))


def test_a_page_is_written_and_its_votes_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("renders", "other", "--dry-run", "--pairs", "2") == 0
    assert "would write compare/compare.html: 2 pairs, 1 left out (--pairs)" in capsys.readouterr().out
    assert not Path("compare").exists()
    assert run("renders", "other") == 0
    assert "key, not for them: compare/compare.key.json" in capsys.readouterr().out
    vote(Path("compare/compare.key.json"))
    assert run("--tally", "votes-x.json", "--json") == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted["first_votes"] + counted["second_votes"] == 3


def test_the_key_can_be_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("renders", "other", "-o", "deep/study", "--json") == 0
    key = Path(json.loads(capsys.readouterr().out)["key"])
    vote(key)
    assert run("--tally", "votes-x.json") == 2
    assert "no key of the comparison" in capsys.readouterr().err
    assert run("--tally", "votes-x.json", "--key", str(key)) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["renders"], "expected two folders of renders, found 1"),
        (["renders", "other", "more"], "expected two folders of renders, found 3"),
        (["renders", "other", "--key", "x.json"], "it needs --tally"),
        (["--tally", "votes-x.json", "--pairs", "3", "--dry-run"], "leave out --pairs, --dry-run"),
        (["renders", "other", "--pairs", "0"], "--pairs"),
        (["renders", "other", "-o", "renders/a.png"], "not a folder"),
    ],
)
def test_wrong_words(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert run(*words) == 2
    assert message in capsys.readouterr().err
