from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spadecli.core.errors import UserError
from spadecli.store.manifest import Journal, ManifestWriter, read_manifest

OPTIONS = {
    "kind": "options",
    "id": "x",
    "weights": "w.safetensors",
    "weights_sha256": "0",
    "size": "64x64",
    "edges": "",
    "latent": "noise",
    "z_dim": 4,
    "seed": "1",
    "shared_z": False,
}
MASK = {
    "kind": "mask",
    "mask": "a",
    "sha256": "0",
    "options": "x",
    "source_size": [64, 64],
    "size": [64, 64],
    "shares": {"wall": 1.0},
    "colored": "_masks/a_mask.png",
}


def image(file, **more):
    row = {"mask": "a", "sample": 0, "seed": "7", "size": [64, 64], "options": "x", "digest": "0", "sha256": "0"}
    return {"kind": "image", "file": file, **row, **more}


def test_rows_come_back_and_the_later_one_holds(tmp_path):
    path = tmp_path / "manifest.jsonl"
    with ManifestWriter(path, Journal()) as m:
        m.append(OPTIONS)
        m.append(image("ü_0.png", n=1))
        m.append(image("ü_0.png", n=2))
        m.append({"kind": "from a newer version"})
    journal = read_manifest(path)
    assert journal.images == {"ü_0.png": image("ü_0.png", n=2)}
    assert journal.newest_options["seed"] == "1"
    assert len(path.read_text("utf-8").splitlines()) == 4


@pytest.mark.parametrize("torn", ['{"kind":"image","fi', json.dumps(image("b_0.png")), "ü"[:1]])
def test_a_torn_last_row_is_ignored_and_mended(tmp_path, torn):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(image("a_0.png")) + "\n" + torn, "utf-8")
    journal = read_manifest(path)
    assert list(journal.images) == ["a_0.png"]
    with ManifestWriter(path, journal) as m:
        m.append(image("c_0.png"))
    assert [json.loads(line)["file"] for line in path.read_text().splitlines()] == ["a_0.png", "c_0.png"]


def test_a_damaged_row_in_the_middle_is_named(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text(f"{json.dumps(image('a'))}\nrubbish\n{json.dumps(image('b'))}\n")
    with pytest.raises(UserError, match="line 2 is damaged"):
        read_manifest(path)


@pytest.mark.parametrize("row", [OPTIONS, MASK, image("a_0.png")], ids=["options", "mask", "image"])
def test_fields_that_are_missing_or_wrong_are_named(tmp_path, row):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(row) + "\n")
    read_manifest(path)
    for field in row.keys() - {"kind"}:
        less = {k: v for k, v in row.items() if k != field}
        path.write_text(json.dumps(less) + "\n" + json.dumps(row | {field: [{}]}) + "\n")
        with pytest.raises(UserError, match="2 lines are damaged") as e:
            read_manifest(path)
        assert f"line 1 is damaged ({field}: field required)" in e.value.problems
        assert e.value.problems[1].startswith(f"line 2 is damaged ({field}")


def test_numbers_that_cannot_be_are_damage(tmp_path):
    path = tmp_path / "manifest.jsonl"
    for wrong in ({"seed": "-1"}, {"seed": "x"}, {"size": [64]}, {"size": [0, 64]}, {"sample": -1}, {"sample": "0"}):
        path.write_text(json.dumps(image("a") | wrong) + "\n")
        with pytest.raises(UserError, match="line 1 is damaged"):
            read_manifest(path)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file/renders/manifest.jsonl", Path("/proc/zz/manifest.jsonl")):
        with pytest.raises(UserError, match="cannot be written") as e:
            ManifestWriter(path, Journal())
        assert "-o" in e.value.hint
    (tmp_path / "manifest.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_manifest(tmp_path / "manifest.jsonl")


def test_a_writer_without_a_row_leaves_nothing_and_takes_nothing(tmp_path):
    path = tmp_path / "new/er/manifest.jsonl"
    with ManifestWriter(path, Journal()):
        assert path.exists()
    assert not (tmp_path / "new").exists()
    with ManifestWriter(path, Journal()) as m:
        m.append(image("a_0.png"))
    before = path.read_bytes()
    with ManifestWriter(path, read_manifest(path), restart=True):
        pass
    assert path.read_bytes() == before


def test_two_writers_exclude_each_other(tmp_path):
    path = tmp_path / "manifest.jsonl"
    with ManifestWriter(path, Journal()), pytest.raises(UserError, match="another spade render"):
        ManifestWriter(path, Journal())
    ManifestWriter(path, read_manifest(path)).__exit__(None, None, None)


def test_rows_that_came_since_reading_are_noticed(tmp_path):
    path = tmp_path / "manifest.jsonl"
    stale = read_manifest(path)
    with ManifestWriter(path, Journal()) as m:
        m.append(image("a_0.png"))
    with pytest.raises(UserError, match="another spade render"):
        ManifestWriter(path, stale)
    assert list(read_manifest(path).images) == ["a_0.png"]


def test_restart_forgets(tmp_path):
    path = tmp_path / "manifest.jsonl"
    with ManifestWriter(path, Journal()) as m:
        m.append(image("a_0.png"))
    with ManifestWriter(path, read_manifest(path), restart=True) as m:
        m.append(image("b_0.png"))
    assert list(read_manifest(path).images) == ["b_0.png"]


def test_threads_do_not_mix_rows(tmp_path):
    path = tmp_path / "manifest.jsonl"
    with ManifestWriter(path, Journal()) as m, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: m.append(image(f"{i}.png", text="x" * 500)), range(200)))
    assert len(read_manifest(path).images) == 200
