"""Reading masks, photos and instance maps: every form people have, and every way a file can be bad."""

import warnings
import zlib

import numpy as np
import pytest
from conftest import shared
from files import THREE_CLASSES, bomb_png, grey_png, save
from PIL import Image

from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelClass, LabelSpace
from spadecli.data.masks import (
    colorize,
    read_instances,
    read_mask,
    read_photo,
    resize_codes,
    resize_instances,
    resize_photo,
)

VALUES = np.array([[0, 1, 2, 1], [2, 2, 0, 0], [1, 0, 1, 2]], np.uint8)


@pytest.fixture
def labels():
    return THREE_CLASSES


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_grey_png_of_every_depth_holds_its_samples(tmp_path, labels, bits):
    assert (read_mask(grey_png(tmp_path / "m.png", VALUES, bits), labels) == VALUES).all()


def test_one_bit_png_holds_zero_and_one(tmp_path, labels):
    codes = read_mask(grey_png(tmp_path / "m.png", VALUES % 2, 1), labels)
    assert codes.dtype == np.uint8
    assert (codes == VALUES % 2).all()


def test_palette_png_is_read_by_index_or_by_colour(tmp_path, labels):
    image = Image.fromarray(VALUES).convert("P")
    image.putdata(VALUES.ravel().tolist())
    image.putpalette([c for i in (2, 0, 1) for c in labels.classes[i].color])  # index i is drawn as another class
    image.save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png", labels) == VALUES).all()
    assert (read_mask(tmp_path / "m.png", labels, "color") == np.array([2, 0, 1])[VALUES]).all()


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_the_label_space(tmp_path, labels, alpha):
    rgb = colorize(VALUES, labels)
    pixels = np.dstack([rgb, np.full(VALUES.shape, 255, np.uint8)]) if alpha else rgb
    assert (read_mask(save(tmp_path / "m.png", pixels), labels) == VALUES).all()


def test_transparent_mask_is_refused_with_the_place(tmp_path, labels):
    rgba = np.dstack([colorize(VALUES, labels), np.full(VALUES.shape, 255, np.uint8)])
    rgba[1, 2, 3] = 254
    with pytest.raises(UserError, match=r"m\.png: 1 pixel not opaque, first at row 1, column 2"):
        read_mask(save(tmp_path / "m.png", rgba), labels)


def test_grey_rgb_is_read_by_index_when_asked(tmp_path, labels):
    path = save(tmp_path / "m.png", np.repeat(VALUES[..., None], 3, axis=2))
    assert (read_mask(path, labels, "index") == VALUES).all()
    with pytest.raises(UserError) as e:
        read_mask(path, labels)
    assert "--mask-format index" in e.value.hint
    with pytest.raises(UserError, match="unequal channels"):
        read_mask(save(tmp_path / "c.png", colorize(VALUES, labels)), labels, "index")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, np.uint32])
def test_npy_of_integers(tmp_path, labels, dtype):
    assert (read_mask(save(tmp_path / "m.npy", VALUES.astype(dtype)), labels) == VALUES).all()


def test_npy_of_booleans(tmp_path, labels):
    assert (read_mask(save(tmp_path / "m.npy", VALUES > 1), labels) == (VALUES > 1)).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (VALUES.astype(np.float32), "type float32, expected integers"),
        (VALUES.astype(complex), "type complex128"),
        (VALUES.astype(np.int16) - 1, "negative value -1"),
        (VALUES[None], r"shape \[1, 3, 4\]"),
        (VALUES[:0], r"shape \[0, 4\]"),
    ],
)
def test_other_arrays_are_refused(tmp_path, labels, array, message):
    with pytest.raises(UserError, match=rf"m\.npy: .*{message}"):
        read_mask(save(tmp_path / "m.npy", array), labels)


def test_pickled_and_truncated_arrays_are_refused(tmp_path, labels):
    np.save(tmp_path / "o.npy", np.array([[{}]]), allow_pickle=True)
    whole = save(tmp_path / "t.npy", np.zeros((100, 100), np.uint8)).read_bytes()
    (tmp_path / "t.npy").write_bytes(whole[:500])
    with open(tmp_path / "z.npy", "wb") as f:
        np.savez(f, VALUES)
    for name in ("o.npy", "t.npy", "z.npy"):
        with pytest.raises(UserError, match=name):
            read_mask(tmp_path / name, labels)


def test_wide_label_space_maps_16_bit_values_to_ranks(tmp_path):
    wide = LabelSpace(
        name="wide",
        classes=(
            LabelClass(name="a", values=(7,), color=(1, 2, 3)),
            LabelClass(name="b", values=(40000, 300), color=(4, 5, 6)),
        ),
    )
    values = np.array([[7, 300], [40000, 7]], np.uint16)
    for name in ("m.png", "m.npy"):
        assert read_mask(save(tmp_path / name, values), wide).tolist() == [[0, 1], [2, 0]]
    with pytest.raises(UserError) as e:
        read_mask(save(tmp_path / "n.npy", values.astype(np.int64) + 65536), wide)
    assert "value 65543: 2 pixels" in e.value.line


def test_values_outside_are_all_listed_with_count_and_place(tmp_path, labels):
    values = VALUES.copy()
    values[0, 1], values[2] = 9, 200
    with pytest.raises(UserError, match=r"m\.png: values outside label space 'three' \(0-2\)") as e:
        read_mask(save(tmp_path / "m.png", values), labels)
    assert e.value.problems == (
        "value 200: 4 pixels, first at row 2, column 0",
        "value 9: 1 pixel, first at row 0, column 1",
    )


def test_255_without_unknown_is_named_even_among_many(tmp_path, labels):
    values = np.repeat(np.arange(3, 30, dtype=np.uint8), 2).reshape(2, 27)
    values[0, 5] = 255
    with pytest.raises(UserError) as e:
        read_mask(save(tmp_path / "m.png", values), labels)
    assert e.value.problems[0].startswith("value 255: 1 pixel, first at row 0, column 5; 255 commonly means unknown")
    assert e.value.problems[-1] == "and 20 more"
    assert "unknown" in e.value.hint


def test_255_with_unknown_is_read(tmp_path):
    labels = LabelSpace(name="u", classes=("wall", {"name": "?", "value": 255}), unknown="?")
    values = np.array([[0, 255]], np.uint8)
    assert read_mask(save(tmp_path / "m.png", values), labels).tolist() == [[0, 255]]


def test_foreign_colours_are_listed_with_count_and_place(tmp_path, labels):
    rgb = colorize(VALUES, labels)
    rgb[1, 3] = (1, 2, 3)
    with pytest.raises(UserError, match="1 colour not in the palette of label space 'three'") as e:
        read_mask(save(tmp_path / "m.png", rgb), labels)
    assert e.value.problems == ("colour (1, 2, 3): 1 pixel, first at row 1, column 3",)


@pytest.mark.parametrize("name", ["m.jpg", "m.png"])
def test_jpeg_masks_are_refused_with_the_reason(tmp_path, labels, name):
    Image.fromarray(VALUES).save(tmp_path / name, format="JPEG")
    with pytest.raises(UserError, match=r"JPEG .*lossy"):
        read_mask(tmp_path / name, labels)


def test_other_suffixes_are_refused(tmp_path, labels):
    with pytest.raises(UserError, match=r"suffix '\.webp' is not one of \.png, \.npy"):
        read_mask(save(tmp_path / "m.webp", VALUES), labels)


def test_16_bit_colour_is_refused_since_it_would_be_cut(tmp_path, labels):
    path = grey_png(tmp_path / "m.png", np.zeros((2, 6), np.uint16), 16)
    data = bytearray(path.read_bytes())
    data[16:29] = b"\0\0\0\x02\0\0\0\x02\x10\x02\0\0\0"  # the same rows as 2x2 pixels of 16-bit RGB
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="16 bits per channel"):
        read_mask(path, labels)


@pytest.mark.parametrize("read", [lambda p: read_mask(p, THREE_CLASSES), read_photo, read_instances])
class TestDamagedFiles:
    def test_empty(self, tmp_path, read):
        (tmp_path / "m.png").touch()
        with pytest.raises(UserError, match=r"m\.png: the file is empty"):
            read(tmp_path / "m.png")

    def test_truncated(self, tmp_path, read):
        rng = np.random.default_rng(0)
        path = save(tmp_path / "m.png", rng.integers(0, 3, (64, 64), np.uint8))
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(UserError, match=r"m\.png: damaged or truncated"):
            read(path)

    def test_no_image(self, tmp_path, read):
        (tmp_path / "m.png").write_text("<svg/>")
        with pytest.raises(UserError, match=r"m\.png: not an image"):
            read(tmp_path / "m.png")

    def test_missing_and_folder(self, tmp_path, read):
        (tmp_path / "f.png").mkdir()
        for name, what in (("x.png", "no such file"), ("f.png", "not a file")):
            with pytest.raises(UserError, match=what):
                read(tmp_path / name)

    @pytest.mark.parametrize("side", [10_000, 60_000])
    def test_bomb_is_an_error_and_never_a_warning(self, tmp_path, read, side):
        path = bomb_png(tmp_path / "m.png", side, side)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(UserError, match="more than 89,478,485"):
                read(path)
        assert not caught


def test_photo_is_turned_upright(tmp_path):
    photo = np.zeros((4, 6, 3), np.uint8)
    photo[:, :3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(tmp_path / "p.png", exif=exif)
    upright = read_photo(tmp_path / "p.png")
    assert upright.shape == (6, 4, 3)
    assert (upright[:3] == 255).all()
    assert (upright[3:] == 0).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_photo_of_any_mode_is_rgb(tmp_path, mode):
    path = tmp_path / "p.png"
    Image.new("L", (5, 3), 255).convert(mode).save(path)
    photo = read_photo(path)
    assert photo.shape == (3, 5, 3)
    assert photo.dtype == np.uint8
    assert (photo == 255).all()


def test_cmyk_photo(tmp_path):
    Image.new("CMYK", (5, 3), (0, 0, 0, 0)).save(tmp_path / "p.jpg")
    assert (read_photo(tmp_path / "p.jpg") > 250).all()


def test_16_bit_photo_is_scaled(tmp_path):
    photo = read_photo(save(tmp_path / "p.png", np.array([[0, 257 * 100, 65535]], np.uint16)))
    assert photo[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]


def test_transparent_photo_lies_over_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    assert read_photo(save(tmp_path / "p.png", rgba))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_instances_of_every_form(tmp_path):
    ids = np.array([[0, 1], [70000, 3]])
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    assert read_instances(save(tmp_path / "rgb.png", rgb)).tolist() == ids.tolist()
    assert read_instances(save(tmp_path / "i.npy", ids)).tolist() == ids.tolist()
    assert read_instances(save(tmp_path / "i.tif", ids.astype(np.int32))).tolist() == ids.tolist()
    small = ids % 1000
    assert read_instances(save(tmp_path / "i16.png", small.astype(np.uint16))).tolist() == small.tolist()
    assert read_instances(tmp_path / "i.npy").dtype == np.uint32


def test_instances_too_large_are_refused(tmp_path):
    with pytest.raises(UserError, match="value 4294967296"):
        read_instances(save(tmp_path / "i.npy", np.array([[1 << 32]])))


def test_resizing_masks_takes_pillows_nearest_and_keeps_every_bit():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (7, 11), np.uint8)
    ids = rng.integers(0, 1 << 32, (7, 11), np.uint32)
    size = (5, 17)
    rows = np.floor((np.arange(5) + 0.5) * 7 / 5).astype(int)
    columns = np.floor((np.arange(17) + 0.5) * 11 / 17).astype(int)
    assert (resize_codes(codes, size) == codes[rows][:, columns]).all()
    assert (resize_instances(ids, size) == ids[rows][:, columns]).all()
    assert resize_photo(np.zeros((7, 11, 3), np.uint8), size).shape == (5, 17, 3)


def test_real_label_maps_with_unknown():
    classes = tuple(str(i) for i in range(182))
    labels = LabelSpace(name="coco", classes=(*classes, {"name": "unknown", "value": 255}), unknown="unknown")
    folder = shared("data", "coco_sample", "train_label")
    seen = [read_mask(path, labels) for path in sorted(folder.iterdir())]
    assert len(seen) == 13
    assert any((codes == 255).any() for codes in seen)
    without = LabelSpace(name="coco", classes=classes)
    with pytest.raises(UserError) as e:
        read_mask(folder / "000000580986.png", without)
    assert "255: 363 pixels" in e.value.problems[0]
