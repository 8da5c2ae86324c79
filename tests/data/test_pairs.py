"""Reading one pair."""

import numpy as np
import pytest
from files import THREE_CLASSES, save

from spadecli.data.folder import Item, Pair
from spadecli.data.pairs import ReadPair, read_pair, same_aspect


def pair_of(tmp_path, photo, mask, instances=None):
    def item(kind, suffix, pixels):
        path = save(tmp_path / kind / f"a{suffix}", pixels)
        return Item(path, path.name, "a")

    ids = item("instances", ".png", instances) if instances is not None else None
    return Pair("a", item("photos", ".png", photo), item("masks", ".png", mask), ids)


def test_reads_and_resizes_and_counts_before_resizing(tmp_path):
    mask = np.zeros((8, 12), np.uint8)
    mask[:, 6:] = 2
    pair = pair_of(tmp_path, np.full((16, 24, 3), 9, np.uint8), mask, mask)
    read = read_pair(pair, THREE_CLASSES, (4, 6))
    assert isinstance(read, ReadPair)
    codes, instances, photo = read.sample
    assert (codes.shape, instances.shape, photo.shape) == ((4, 6), (4, 6), (4, 6, 3))
    assert codes[0].tolist() == [0, 0, 0, 2, 2, 2]
    assert instances.dtype == np.uint32
    assert (photo == 9).all()
    assert read.photo_size == (16, 24)
    assert read.counts[[0, 1, 2]].tolist() == [48, 0, 48]


def test_everything_wrong_is_listed(tmp_path):
    pair = pair_of(tmp_path, np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 77, np.uint8), np.zeros((8, 8), np.uint8))
    pair.photo.path.write_bytes(b"")
    pair.instances.path.write_bytes(b"no")
    problems = read_pair(pair, THREE_CLASSES, (8, 8))
    assert [("value 77" in p, "empty" in p, "not an image" in p) for p in problems] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_another_aspect_is_an_error_that_names_both(tmp_path):
    pair = pair_of(tmp_path, np.zeros((8, 16, 3), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((4, 8), np.uint8))
    photo, instances = read_pair(pair, THREE_CLASSES, (8, 8))
    assert "photos/a.png: 8x16" in photo.replace("\\", "/")
    assert "masks/a.png, 8x8" in photo.replace("\\", "/")
    assert "instances/a.png: 4x8" in instances.replace("\\", "/")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ((375, 500), (188, 250), True),
        ((375, 500), (187, 250), True),
        ((375, 500), (185, 250), False),
        ((480, 640), (640, 480), False),
        ((256, 256), (256, 256), True),
        ((256, 256), (256, 260), False),
    ],
)
def test_aspect_allows_a_pixel_of_rounding(a, b, same):
    assert same_aspect(a, b) is same
    assert same_aspect(b, a) is same
