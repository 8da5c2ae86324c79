"""``spade stylize``: z of every image, places, resuming, references of every kind, refusals."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from fake_backend import FakeBackend, make_card, write_mask
from PIL import Image

from spadecli.commands.render.command import RenderOptions
from spadecli.commands.styles import command as styles_command
from spadecli.commands.styles.command import StylesOptions, styles
from spadecli.commands.stylize import command
from spadecli.commands.stylize.command import StylizeOptions, stylize
from spadecli.core.errors import UserError
from spadecli.core.seeds import sample_seed, sample_z
from spadecli.store.manifest import read_manifest
from spadecli.store.styles_file import read_styles

RED, GREEN, BLUE = (250, 20, 20), (20, 250, 20), (20, 20, 250)


@pytest.fixture
def backend(tmp_path, monkeypatch):
    """A fake backend whose style is the photo's mean colour, two masks, two photos; the folder is the current one."""
    fake = FakeBackend(make_card(latent="encoder"))
    for module in (command, styles_command):
        monkeypatch.setattr(module, "open_backend", lambda path, device, **chosen: fake)
    monkeypatch.chdir(tmp_path)
    Path("w.safetensors").write_bytes(b"weights")
    for name in ("a", "sub/b"):
        write_mask(Path(f"masks/{name}.png"))
    photo("red.png", RED)
    photo("blue.png", BLUE)
    return fake


def photo(path: str, color: tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (50, 30)) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path)


def options(*refs: str, **more) -> StylizeOptions:
    names = StylizeOptions.__dataclass_fields__.keys() & more.keys()
    given = {"out": Path("stylized")} | {k: v for k, v in more.items() if k not in names}
    render = RenderOptions(weights=Path("w.safetensors"), workers=2, **given)
    return StylizeOptions(render, refs, **{k: more[k] for k in names})


def z_by_file(out: str = "stylized") -> dict[str, np.ndarray]:
    with h5py.File(Path(out) / "renders.h5") as f:
        return dict(zip(f["file"].asstr()[:], f["z"][:], strict=True))


def mean(color) -> np.ndarray:
    return np.array([*(np.array(color) / 127.5 - 1), 0], np.float32)


def test_images_lie_in_a_folder_for_each_style_and_have_its_mu(backend):
    result = stylize(options("red.png", "blue.png"))
    assert result.styles == ("red", "blue")
    z = z_by_file()
    assert set(z) == {f"{style}/{mask}_0.png" for style in ("red", "blue") for mask in ("a", "sub/b")}
    for name, value in z.items():
        np.testing.assert_allclose(value, mean(RED if name.startswith("red") else BLUE), atol=1e-6)
        pixel = np.asarray(Image.open(Path("stylized") / name))[0, 0, 2]
        assert pixel == pytest.approx((np.tanh(value[0]) + 1) * 127.5, abs=1.5)
    # the two styles of a mask share one network call, and a seed is stored for none: nothing was drawn
    assert backend.calls == [(2, 2)]
    assert all(row["seed"] is None for row in read_manifest(result.render.manifest).images.values())


def test_strength_noise_and_samples(backend):
    stylize(options("red.png", samples=2, strength=0.5, seed=7))
    mu, sigma = mean(RED), np.exp(-1)
    for name, z in z_by_file().items():
        key, i = name.removeprefix("red/").removesuffix(".png").rsplit("_", 1)
        eps = sample_z(sample_seed(7, key, int(i)), 4)
        np.testing.assert_allclose(z, 0.5 * mu + sigma * eps, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"samples": 2, "noise": 0.0}, "the same image"),
        ({"noise": -1.0}, "--noise -1.0"),
        ({"strength": float("nan")}, "--strength nan"),
        ({"interpolate": 2}, "expected 2 or more"),
        ({"spherical": True}, "--spherical"),
        ({"sheet": Path("x.gif")}, "--sheet x.gif"),
        ({"sheet": Path("x.png"), "gallery": False}, "--no-gallery"),
    ],
)
def test_options_that_cannot_be(backend, more, words):
    with pytest.raises(UserError, match=words):
        stylize(options("red.png", **more))
    assert not Path("stylized").exists()


def test_resuming_skips_and_other_styles_are_refused_or_overwrite(backend):
    stylize(options("red.png"))
    assert stylize(options("red.png")).render.skipped == 2
    assert stylize(options("red.png", seed=5)).render.skipped == 2  # without noise the seed changes nothing
    Path("stylized/red/a_0.png").unlink()
    again = stylize(options("red.png"))
    assert (again.render.images, again.render.skipped) == (1, 1)
    with pytest.raises(UserError) as e:
        stylize(options("red.png", strength=2))
    assert "made with strength 1.0 (now 2.0)" in e.value.problems[0]
    photo("red.png", GREEN)
    with pytest.raises(UserError) as e:
        stylize(options("red.png"))
    assert "made with another style" in e.value.problems[0]
    assert stylize(options("red.png", overwrite=True)).render.images == 2
    # another photo into the same folder is a further column
    assert stylize(options("blue.png")).render.images == 2
    page = Path("stylized/index.html").read_text()
    assert page.count("<figcaption>") == 2
    assert page.count('src="_styles/') == 2


def test_mix_and_interpolation_act_on_mu(backend):
    stylize(options("red.png", "blue.png", interpolate=1, mixes=("red.png:1,blue.png:3",)))
    z = z_by_file()
    np.testing.assert_allclose(z["red-blue-1of2/a_0.png"], (mean(RED) + mean(BLUE)) / 2, atol=1e-6)
    np.testing.assert_allclose(z["red=1+blue=3/a_0.png"], 0.25 * mean(RED) + 0.75 * mean(BLUE), atol=1e-6)
    stylize(options(mixes=("red.png,blue.png",), spherical=True))
    turned = z_by_file()["red=1+blue=1/a_0.png"]
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(mean(RED)), rel=1e-5)


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        ("red.png:1", "no mix"),
        ("red.png:1,blue.png:-1", "add up to 0"),
        ("red.png:1,none.png:1", "--mix none.png: no such photo"),
        ("red.png:x,blue.png:1", "weight 'x' is no number"),
        ("photos:1,blue.png:1", "is 2 styles"),
    ],
)
def test_mixes_that_cannot_be(backend, mix, words):
    photo("photos/1.png", RED)
    photo("photos/2.png", BLUE)
    with pytest.raises(UserError, match=words):
        stylize(options(mixes=(mix,)))


def test_names_in_a_mix_may_hold_commas(backend):
    photo("house, red.png", RED)
    photo("a,b.png", BLUE)
    stylize(options(mixes=("house, red.png:1,a,b.png:3", "blue.png,house, red.png")))
    z = z_by_file()
    np.testing.assert_allclose(z["house, red=1+a,b=3/a_0.png"], 0.25 * mean(RED) + 0.75 * mean(BLUE), atol=1e-6)
    np.testing.assert_allclose(z["blue=1+house, red=1/a_0.png"], (mean(RED) + mean(BLUE)) / 2, atol=1e-6)
    styles(StylesOptions(Path("a,b.png"), weights=Path("w.safetensors")))
    assert stylize(options(mixes=("styles.h5#a,b:1,red.png",), out=Path("o"))).styles == ("a,b=1+red=1",)


def test_label_maps_are_no_references(backend):
    """A mask in place of a photo was encoded without a word; a photo in grey is one."""
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(8).reshape(32, 64))
    grey.save("grey.png")
    assert stylize(options("grey.png")).styles == ("grey",)
    mask = Image.fromarray(np.arange(12, dtype=np.uint8).repeat(100).reshape(30, 40))
    mask.save("plain.png")
    mask.putpalette([200, 30, 30] * 12)
    mask.save("palette.png")
    with pytest.raises(UserError, match=r"palette\.png: a label map, not a photo \(palette PNG of 12 values\)") as e:
        stylize(options("palette.png"))
    assert "save it as RGB" in e.value.hint
    with pytest.raises(UserError) as e:
        stylize(options("plain.png", "palette.png", "red.png"))
    assert len(e.value.problems) == 2
    with pytest.raises(UserError, match="a label map"):
        styles(StylesOptions(Path("plain.png"), weights=Path("w.safetensors")))


def test_of_a_folder_of_renders_only_the_images_are_references(backend):
    stylize(options("red.png", "blue.png"))
    assert stylize(options("stylized", out=Path("again"))).styles == (
        "blue-a_0",
        "blue-sub-b_0",
        "red-a_0",
        "red-sub-b_0",
    )
    assert styles(StylesOptions(Path("stylized"), weights=Path("w.safetensors"))).styles == 4


def test_any_photo_is_read_upright_and_whole(backend):
    """Every mode; a picture on its side with an EXIF orientation has the style of the upright one."""
    for mode in ("L", "LA", "P", "RGBA", "CMYK"):
        photo(f"{mode}.png" if "A" in mode else f"{mode}.tif", (200, 60, 30), mode)
    Image.fromarray(np.full((40, 30), 30000, np.uint16)).save("deep.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (300, 20), RED).save("turned.jpg", exif=exif)
    names = ("L.tif", "LA.png", "P.tif", "RGBA.png", "CMYK.tif", "deep.tif", "turned.jpg")
    result = stylize(options(*names))
    assert result.styles == ("L", "LA", "P", "RGBA", "CMYK", "deep", "turned")
    z = z_by_file()
    np.testing.assert_allclose(z["RGBA/a_0.png"], mean((200, 60, 30)), atol=0.01)
    np.testing.assert_allclose(z["deep/a_0.png"], mean((117, 117, 117)), atol=0.01)
    with Image.open("stylized/_styles/turned_style.jpg") as thumbnail:
        assert thumbnail.height > thumbnail.width


def test_folders_and_styles_files_are_references_too(backend):
    photo("photos/x/red.png", RED)
    photo("photos/blue.png", BLUE)
    styles(StylesOptions(Path("photos"), weights=Path("w.safetensors")))
    encoded = backend.encoded
    result = stylize(options("styles.h5#x/red", "styles.h5#blue", gallery=False))
    assert result.styles == ("x-red", "blue")
    assert result.encoded == 0
    # the same photos, given as a folder, are the same styles: nothing is rendered again
    again = stylize(options("photos"))
    assert again.styles == ("blue", "x-red")
    assert (again.render.images, again.render.skipped) == (0, 4)
    assert backend.encoded > encoded
    with pytest.raises(UserError) as e:
        stylize(options("styles.h5#none", "nowhere.jpg"))
    assert e.value.problems == (
        "--ref styles.h5#none: no style of that name",
        "--ref nowhere.jpg: no such photo or folder",
    )
    Path("w.safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match="styles of other weights"):
        stylize(options("styles.h5"))


def test_references_of_one_name_are_refused_and_the_same_twice_is_one(backend):
    photo("other/red.jpg", BLUE)
    with pytest.raises(UserError) as e:
        stylize(options("red.png", "other/red.jpg"))
    assert e.value.problems == ("red: red.png, other/red.jpg",)
    assert stylize(options("red.png", "./red.png")).styles == ("red",)


def test_without_ref_photo_jpg_is_taken(backend):
    with pytest.raises(UserError, match=r"no --ref, and no photo\.jpg") as e:
        stylize(options())
    assert "spade examples" in e.value.hint
    photo("photo.jpg", RED)
    assert stylize(options()).styles == ("photo",)


@pytest.mark.parametrize(("latent", "words"), [("map", "one image per mask"), ("noise", "spade render --samples")])
def test_weights_without_an_encoder_say_what_to_do(backend, latent, words):
    backend.card = make_card(latent=latent)
    for call in (
        lambda: stylize(options("red.png")),
        lambda: styles(StylesOptions(Path("."), weights=Path("w.safetensors"))),
    ):
        with pytest.raises(UserError, match="no image encoder") as e:
            call()
        assert words in e.value.hint
        assert 'model.latent = "encoder"' in e.value.hint


def test_all_bad_photos_are_named_and_nothing_is_written(backend):
    Path("empty.jpg").touch()
    Path("text.jpg").write_text("no picture")
    with pytest.raises(UserError) as e:
        stylize(options("empty.jpg", "text.jpg", "red.png"))
    assert [p.split(":")[0] for p in e.value.problems] == ["empty.jpg", "text.jpg"]
    assert not Path("stylized").exists()


def test_dry_run_writes_nothing(backend):
    result = stylize(options("red.png", "blue.png", dry_run=True, sheet=Path("s.png")))
    assert result.lines() == ["would render 4 images in 2 styles of 2 masks to stylized"]
    assert not Path("stylized").exists()
    assert not Path("s.png").exists()


def test_sheet_has_references_on_top_and_the_report_says_whether_they_carry(backend):
    result = stylize(options("red.png", "blue.png", sheet=Path("sheet.png")))
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (3 * 196 - 4, 3 * 196 - 4)
        assert sheet.getpixel((196 + 96, 96))[0] > 200
        assert sheet.getpixel((2 * 196 + 96, 96))[2] > 200
    found = json.loads(json.dumps(result.as_json()))["consistency"]
    assert found["color"]["num_references"] == 2
    assert found["code"]["num_outputs"] == 4
    assert any(line.startswith("encoded back: ") for line in result.lines())


def test_styles_encodes_each_content_once(backend):
    photo("photos/1.png", RED)
    photo("photos/2.png", BLUE)
    wanted = StylesOptions(Path("photos"), weights=Path("w.safetensors"))
    assert styles(wanted).encoded == 2
    before = Path("styles.h5").stat().st_mtime_ns
    assert styles(wanted).encoded == 0
    assert Path("styles.h5").stat().st_mtime_ns == before
    Path("photos/1.png").rename("photos/renamed.png")
    Path("photos/2.png").unlink()
    photo("photos/3.png", GREEN)
    result = styles(wanted)
    assert (result.styles, result.encoded, result.dropped) == (2, 1, 1)
    assert [e.name for e in read_styles(Path("styles.h5")).entries] == ["3", "renamed"]
    Path("w.safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match="styles of other weights"):
        styles(wanted)
    assert styles(replace(wanted, overwrite=True)).encoded == 2
