"""The gallery as a file, and in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from fake_backend import FakeBackend, Listener, make_card, source, write_mask

from spadecli.commands.render import gallery
from spadecli.commands.render.command import RenderOptions, render_with

HOSTILE = ("<script>alert(1)</script>'&\"", "100%25 #1?x=y", "a:b c\\d", "Häuser/ü {{ 7*7 }}")


def make_gallery(folder: Path, names=HOSTILE, samples=2, **architecture) -> Path:
    for name in names:
        # a slash makes a folder, as in every hostile name that has one
        write_mask(folder / "masks" / f"{name}.png")
    options = RenderOptions(masks=folder / "masks", out=folder / "out", samples=samples, workers=2)
    result = render_with(source(FakeBackend(make_card(**architecture))), options, Listener())
    assert result.gallery is not None
    return result.gallery


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.names: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        if tag == "img" and "src" in values:
            self.images.append(values["src"])
            assert values["loading"] == "lazy"
            assert values["alt"]
        if tag == "a":
            self.links.append(values["href"])
        if tag == "section":
            self.names.append(values["data-name"])


def test_contents(tmp_path):
    path = make_gallery(tmp_path)
    text = path.read_text("utf-8")
    page = Page(text)
    assert sorted(page.names) == sorted(HOSTILE)
    assert len(page.images) == len(page.links) == 3 * len(HOSTILE)
    for url in page.images:
        assert (path.parent / unquote(url)).is_file()
        assert not re.search(r"[\s\"'<>#?:]", url)
    assert "<b>door</b>" not in text
    assert "&lt;b&gt;door" in text
    assert page.tags.count("script") == 1
    assert not re.search(r"(?:https?:)?//\w", text.replace("http-equiv", ""))


def test_one_mask_without_z(tmp_path):
    page = Page(make_gallery(tmp_path, ["only"], samples=1, latent="map").read_text("utf-8"))
    assert page.images == ["_masks/only_mask.png", "only_0.png"]


def test_facts(tmp_path):
    text = make_gallery(tmp_path, ["a", "b"]).read_text("utf-8")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text)[:5])
    assert facts == {"weights": "fake.safetensors", "masks": "2", "samples": "2", "seed": "0", "size": "64x64"}


def test_gallery_of_very_many_masks_says_what_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "MAX_MASKS", 2)
    text = make_gallery(tmp_path, ["a", "b", "c"]).read_text("utf-8")
    assert Page(text).names == ["a", "b"]
    assert "first 2 masks; 1 more" in text


def test_a_gallery_made_later_gets_its_masks(tmp_path):
    write_mask(tmp_path / "masks/a.png")
    options = {"masks": tmp_path / "masks", "out": tmp_path / "out"}
    assert render_with(source(), RenderOptions(**options, gallery=False), Listener()).gallery is None
    assert not (tmp_path / "out/_masks").exists()
    result = render_with(source(), RenderOptions(**options), Listener())
    assert result.images == 0
    assert (tmp_path / "out/_masks/a_mask.png").is_file()


# Presses keys, notes what holds the focus or is shown after each, and leaves the notes in the page.
DRIVER = """
<script>
const notes = {};
const press = (key) => (document.activeElement || document.body).dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const focused = () => decodeURIComponent(document.activeElement.getAttribute("href") || document.activeElement.tagName);
window.addEventListener("load", async () => {
  notes.count = $("count").textContent;
  press("j"); notes.first = focused();
  press("j"); notes.second = focused();
  press("ArrowRight"); notes.right = focused();
  press("k"); notes.back = focused();
  press("End"); notes.end = focused();
  press("Home"); notes.home = focused();
  press("Enter"); notes.zoomed = zoom.open;
  notes.picture = decodeURIComponent(zoom.querySelector("img").src).split("/").pop();
  press("ArrowRight"); notes.stays = zoom.open;
  press("m"); notes.mask = decodeURIComponent(zoom.querySelector("img").src).includes("_masks/");
  press(" "); notes.closed = !zoom.open;
  await new Promise((done) => setTimeout(done, 100));
  notes.focusKept = focused();
  press("?"); notes.help = help.open; help.close();
  press("/"); notes.filtering = document.activeElement === filter;
  filter.value = "mask1 9"; filter.dispatchEvent(new Event("input"));
  notes.filtered = $("count").textContent;
  press("Enter"); notes.found = focused();
  filter.value = "none such"; filter.dispatchEvent(new Event("input"));
  notes.nothing = !$("nothing").hidden;
  filter.value = ""; filter.dispatchEvent(new Event("input"));
  const pictures = [...document.querySelectorAll(".mask img")];
  const near = pictures.slice(0, 12);  // those in the window
  near.forEach((i) => { i.loading = "eager"; });
  const late = new Promise((done) => setTimeout(done, 10000));
  await Promise.race([Promise.all(near.map((i) => i.decode().catch(() => {}))), late]);
  notes.decoded = pictures[0].naturalWidth;
  notes.loaded = pictures.filter((i) => i.complete && i.naturalWidth).length;
  notes.wide = document.documentElement.scrollWidth <= innerWidth;
  const pre = document.createElement("pre");
  pre.id = "notes"; pre.textContent = JSON.stringify(notes);
  document.body.replaceChildren(pre);
});
</script>
"""


def drive(page: Path) -> dict[str, object]:
    """Open a copy of the page in headless Chromium, press keys, return the notes."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium")
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text("utf-8").replace("</body>", DRIVER + "</body>"), "utf-8")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    # headless Chromium loads everything at once unless told to be as lazy as with a window
    flags = [
        "--headless",
        "--blink-settings=lazyLoadEnabled=true",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=20000",
        "--window-size=1200,900",
    ]
    command = [browser, *flags, profile, "--dump-dom", driven.as_uri()]
    for _ in range(3):  # virtual time may run out before a busy machine has decoded the pictures
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
        if found := re.search(r'<pre id="notes">(.*?)</pre>', dom, re.DOTALL):
            break
    assert found, dom[-2000:]
    notes: dict[str, object] = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    return notes


@pytest.mark.browser
def test_keys_in_a_browser(tmp_path):
    names = [f"mask{i:04}" for i in range(2000)]
    page = make_gallery(tmp_path, names[:3])
    # two thousand sections from three: what is to be seen is how the page copes, not how masks are rendered
    text = page.read_text("utf-8")
    section = re.search(r"<section.*?</section>", text, re.DOTALL)[0]
    sections = "\n".join(
        section.replace('="mask0000"', f'="{name}"').replace('.png"', f'.png?{name}"') for name in names[3:]
    )
    page.write_text(text.replace('<p class="note" id="nothing"', sections + '\n<p class="note" id="nothing"'), "utf-8")
    notes = drive(page)
    assert notes["count"] == "2000 masks"
    assert notes["first"] == "_masks/mask0000_mask.png"
    assert notes["second"] == "_masks/mask0001_mask.png"
    assert (notes["right"], notes["back"]) == ("mask0001_0.png", "mask0000_0.png")
    assert notes["home"] == "mask0000_0.png"
    assert (notes["zoomed"], notes["picture"], notes["stays"]) == (True, "mask0000_0.png", True)
    assert (notes["mask"], notes["closed"], notes["focusKept"]) == (True, True, "mask0000_1.png")
    assert (notes["help"], notes["filtering"], notes["nothing"]) == (True, True, True)
    assert notes["filtered"] == "271 of 2000 masks"  # of 1000 to 1999, those with a 9
    assert notes["decoded"] == 64
    assert notes["loaded"] < 100  # only what is near the window is fetched
    assert notes["wide"]


@pytest.mark.browser
def test_hostile_names_in_a_browser(tmp_path):
    notes = drive(make_gallery(tmp_path))
    assert notes["count"] == "4 masks"
    assert notes["decoded"] == 64
    assert notes["loaded"] == 3 * len(HOSTILE)
