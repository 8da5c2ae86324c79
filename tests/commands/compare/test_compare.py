"""The blind comparison: what the page gives away, what votes come to, and the page in a real browser."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pictures import photographs
from PIL import Image

from spadecli.commands.compare.command import CompareOptions, compare
from spadecli.commands.compare.tally import sign_test, tally, wilson_interval
from spadecli.core.errors import UserError

NAMES = [f"house_{i}" for i in range(12)]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A comparison of a gloomy folder with a sunny one."""
    for folder, level in (("gloomy", 40), ("sunny", 200)):
        (tmp_path / folder).mkdir()
        for name in NAMES:
            Image.new("RGB", (32, 24), (level, level, level)).save(tmp_path / folder / f"{name}.png")
    options = CompareOptions(tmp_path / "gloomy", tmp_path / "sunny", tmp_path / "study")
    result = compare(options)
    assert result.pairs == 12
    return result.page


def shown(page: Path) -> list[dict[str, str]]:
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text("utf-8"), re.S)
    return json.loads(data[1])["pairs"]


def brightness(url: str) -> float:
    return float(np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))).mean())


def key_of(page: Path) -> dict[str, object]:
    return json.loads((page.parent / "compare.key.json").read_text("utf-8"))


def ballot(page: Path, name: str, choices: list[str], **changes: object) -> Path:
    votes = [{"pair": i, "choice": c} for i, c in enumerate(choices)]
    words = {"format": "spade-compare-votes", "study": key_of(page)["study"], "ballot": name, "votes": votes, **changes}
    path = page.parent / f"votes-{name}.json"
    path.write_text(json.dumps(words))
    return path


def test_the_page_is_blind_and_the_key_is_right(page: Path) -> None:
    text = page.read_text("utf-8")
    for word in (*NAMES, "gloomy", "sunny", "second"):
        assert word not in re.sub(r"data:image/[^\"]*", "", text), word
    rows = key_of(page)["pairs"]
    for row, pair in zip(rows, shown(page), strict=True):
        assert (brightness(pair["left"]) < 120) == (row["left"] == "first")
    assert [row["mask"] for row in rows] != sorted(row["mask"] for row in rows)
    assert len({row["left"] for row in rows}) == 2 or len(rows) < 12


def test_both_sides_are_encoded_alike(tmp_path: Path) -> None:
    photographs(tmp_path / "a", ["x"], size=(64, 64))
    photographs(tmp_path / "b", ["x"], seed=1, size=(128, 128))
    compare(CompareOptions(tmp_path / "a", tmp_path / "b", tmp_path / "study"))
    (pair,) = shown(tmp_path / "study" / "compare.html")
    images = [Image.open(io.BytesIO(base64.b64decode(pair[side].partition(",")[2]))) for side in ("left", "right")]
    assert [(i.size, i.format) for i in images] == [((64, 64), "JPEG")] * 2


def test_a_seed_fixes_everything_and_no_seed_nothing(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 1)):
        photographs(tmp_path / folder, NAMES, seed=seed)

    def write(out: str, seed: int | None) -> tuple[str, str]:
        result = compare(CompareOptions(tmp_path / "a", tmp_path / "b", tmp_path / out, pairs=8, seed=seed))
        assert (result.pairs, result.left_out) == (8, 4)
        return result.page.read_text("utf-8"), result.key.read_text("utf-8")

    assert write("1", 3) == write("2", 3)
    assert write("3", 4)[1] != write("4", 3)[1]
    assert write("5", None)[1] != write("6", None)[1]
    photographs(tmp_path / "b", NAMES, seed=2)
    assert json.loads(write("7", 3)[1])["study"] != json.loads(write("8", 4)[1])["study"]
    assert json.loads(write("9", 3)[1])["study"] != json.loads((tmp_path / "1/compare.key.json").read_text())["study"]


def test_votes_are_unblinded_and_counted(page: Path) -> None:
    left = {row["pair"]: row["left"] for row in key_of(page)["pairs"]}
    for_first = ["left" if left[i] == "first" else "right" for i in range(12)]
    against = [{"left": "right", "right": "left"}[c] for c in for_first]
    files = [ballot(page, "one", for_first), ballot(page, "two", for_first[:6] + against[6:])]
    result = tally(files, None)
    assert (result.first_votes, result.second_votes, result.ballots, result.pairs) == (18, 6, 2, 12)
    assert result.first.endswith("gloomy")
    assert tally([*files, files[0]], page.parent / "compare.key.json") == result  # a ballot counts once
    assert "18 of 24 votes, 75.0%" in result.lines()[0]


def test_interval_and_test_against_known_values() -> None:
    assert wilson_interval(15, 20) == pytest.approx((0.5313, 0.8881), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    assert sign_test(15, 20) == pytest.approx(2 * sum(math.comb(20, k) for k in range(6)) / 2**20, rel=1e-12)
    assert sign_test(10, 20) == 1
    assert sign_test(4000, 10000) < 1e-80


def test_bad_input(page: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="key of an earlier comparison"):
        compare(CompareOptions(tmp_path / "gloomy", tmp_path / "sunny", page.parent))
    with pytest.raises(UserError, match="compared with itself"):
        compare(CompareOptions(tmp_path / "gloomy", tmp_path / "gloomy", tmp_path / "x"))
    shutil.copytree(tmp_path / "gloomy", tmp_path / "copy")
    with pytest.raises(UserError, match="hold the same pictures"):
        compare(CompareOptions(tmp_path / "gloomy", tmp_path / "copy", tmp_path / "x"))
    photographs(tmp_path / "others", ["elsewhere"])
    with pytest.raises(UserError, match="have no render of the same mask"):
        compare(CompareOptions(tmp_path / "gloomy", tmp_path / "others", tmp_path / "x"))
    (tmp_path / "notes.json").write_text("{")
    files = [
        ballot(page, "other", ["left"], study="beef"),
        ballot(page, "pair", ["left"], votes=[{"pair": 99, "choice": "left"}]),
        ballot(page, "field", ["left"], votes=[{"choice": "left"}]),
        tmp_path / "notes.json",
        tmp_path / "missing.json",
    ]
    with pytest.raises(UserError, match="5 of 5 files cannot be tallied") as e:
        tally(files, None)
    for part, problem in zip(
        ("of study beef", "pair 99", "field 'pair'", "not JSON", "no such file"), e.value.problems, strict=True
    ):
        assert part in problem
    with pytest.raises(UserError, match="no files of votes"):
        tally([], None)


@pytest.mark.browser
def test_voting_in_a_browser(page: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    script = """<script>
for (const key of ["ArrowLeft", "ArrowRight", "ArrowLeft", "Backspace", "ArrowRight"])
  document.dispatchEvent(new KeyboardEvent("keydown", { key }));
document.getElementById("left").click();
const seen = [at("count").textContent, localStorage.getItem(store) !== null, at("mask").hidden];
while (!document.getElementById("pair").hidden) document.getElementById("right").click();
document.title = JSON.stringify({ seen, ballot: JSON.parse(ballot()), done: !document.getElementById("done").hidden });
</script></body>"""
    probe = page.with_name("probe.html")
    probe.write_text(page.read_text("utf-8").replace("</body>", script), "utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    command += ["--virtual-time-budget=3000", "--dump-dom", probe.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    import html

    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1]))
    assert found["seen"] == ["5 of 12", True, True]
    assert found["done"]
    choices = [v["choice"] for v in found["ballot"]["votes"]]
    assert choices == ["left", "right", "right", "left", *["right"] * 8]
    votes = page.parent / "votes-browser.json"
    votes.write_text(json.dumps(found["ballot"]))
    assert tally([votes], None).first_votes + tally([votes], None).second_votes == 12
