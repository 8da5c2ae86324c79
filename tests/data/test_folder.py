"""Scanning folders and pairing by name."""

import os
import unicodedata
from pathlib import Path

import pytest
from conftest import shared

from spadecli.core.errors import UserError
from spadecli.data.folder import pair, scan


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_finds_nested_files_in_order_and_skips_hidden_ones(tmp_path):
    touch(tmp_path, "b.png", "a/z.npy", "a/.hidden.png", ".git/x.png", "notes.txt", "c.PNG")
    items = scan(tmp_path)
    assert [i.relative for i in items] == ["a/z.npy", "b.png", "c.PNG"]
    assert [i.key for i in items] == ["a/z", "b", "c"]


def test_jpegs_among_masks_are_found_so_that_reading_tells_why(tmp_path):
    touch(tmp_path, "a.jpg")
    assert [i.relative for i in scan(tmp_path, "masks")] == ["a.jpg"]


def test_single_file(tmp_path):
    touch(tmp_path, "sub/a.png")
    (item,) = scan(tmp_path / "sub" / "a.png")
    assert (item.relative, item.key) == ("a.png", "a")


def test_links_are_followed_and_loops_left_out(tmp_path):
    touch(tmp_path, "real/a.png")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "other").symlink_to(tmp_path / "real")
    assert [i.relative for i in scan(tmp_path)] == ["other/a.png", "real/a.png"]


def test_dangling_link_is_an_item_not_a_gap(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    assert [i.key for i in scan(tmp_path)] == ["a", "b"]


def test_pipes_are_left_out(tmp_path):
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert [i.key for i in scan(tmp_path)] == ["a"]


def test_unreadable_folder_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "a/b.png")

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        scan(tmp_path)


def test_two_masks_with_one_name_are_all_listed(tmp_path):
    touch(tmp_path, "a.png", "a.npy", "d/b.png", "d/b.npy", "c.png")
    with pytest.raises(UserError) as e:
        scan(tmp_path)
    assert e.value.problems == ("a.npy, a.png: the same name", "d/b.npy, d/b.png: the same name")


def test_names_equal_after_unicode_normalization_clash(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    touch(tmp_path, composed, decomposed)
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system normalizes names itself")
    with pytest.raises(UserError, match="not unique"):
        scan(tmp_path)


def test_pairs_across_unicode_forms(tmp_path):
    touch(tmp_path, "p/" + unicodedata.normalize("NFD", "é.jpg"), "m/" + unicodedata.normalize("NFC", "é.png"))
    assert len(pair(scan(tmp_path / "p", "photos"), scan(tmp_path / "m")).pairs) == 1


def test_name_that_is_no_unicode_is_an_error(tmp_path):
    try:
        with open(os.fsencode(tmp_path) + b"/\xff.png", "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    with pytest.raises(UserError, match="not readable"):
        scan(tmp_path)


def test_missing_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        scan(tmp_path / "x")
    with pytest.raises(UserError, match="no masks in this folder") as e:
        scan(tmp_path)
    assert ".png, .npy" in e.value.message


def test_endings_pair_layouts_that_name_files_by_kind(tmp_path):
    touch(
        tmp_path,
        "img/town/town_1_leftImg8bit.png",
        "gt/town/town_1_gtFine_labelIds.png",
        "gt/town/town_1_gtFine_instanceIds.png",
        "gt/town/town_1_gtFine_color.png",
    )
    pairing = pair(
        scan(tmp_path / "img", "photos", "_leftImg8bit.png"),
        scan(tmp_path / "gt", "masks", "_gtFine_labelIds.png"),
        scan(tmp_path / "gt", "instances", "_gtFine_instanceIds.png"),
    )
    (p,) = pairing.pairs
    assert p.key == "town/town_1"
    assert p.instances is not None
    assert pairing.unpaired == ()


def test_dots_in_names_stay(tmp_path):
    touch(tmp_path, "v1.2.png", "v1.3.png")
    assert [i.key for i in scan(tmp_path)] == ["v1.2", "v1.3"]


def test_unpaired_of_either_side_are_listed(tmp_path):
    touch(tmp_path, "p/a.jpg", "p/b.jpg", "m/b.png", "m/c.png")
    pairing = pair(scan(tmp_path / "p", "photos"), scan(tmp_path / "m"))
    assert [p.key for p in pairing.pairs] == ["b"]
    assert pairing.unpaired == (
        f"{tmp_path / 'p' / 'a.jpg'}: no mask of that name",
        f"{tmp_path / 'm' / 'c.png'}: no photo of that name",
    )


def test_real_folders_pair():
    root = shared("data", "coco_sample")
    found = scan(root / "train_img", "photos"), scan(root / "train_label"), scan(root / "train_inst", "instances")
    assert len(pair(*found).pairs) == 13
