from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from spadecli.core.errors import UserError
from spadecli.store.manifest import Journal, ManifestWriter, read_manifest


def image(file, **more):
    return {"kind": "image", "file": file, **more}


def test_rows_come_back_and_the_later_one_holds(tmp_path):
    path = tmp_path / "manifest.jsonl"
    with ManifestWriter(path, Journal()) as m:
        m.append({"kind": "options", "id": "x", "seed": "1"})
        m.append(image("ü_0.png", n=1))
        m.append(image("ü_0.png", n=2))
        m.append({"kind": "from a newer version"})
    journal = read_manifest(path)
    assert journal.images == {"ü_0.png": image("ü_0.png", n=2)}
    assert journal.newest_options["seed"] == "1"
    assert len(path.read_text("utf-8").splitlines()) == 4


@pytest.mark.parametrize("torn", ['{"kind":"image","fi', '{"kind":"image","file":"b_0.png"}', "ü"[:1]])
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
    path.write_text('{"kind":"image","file":"a"}\nrubbish\n{"kind":"image","file":"b"}\n')
    with pytest.raises(UserError, match="line 2 is damaged"):
        read_manifest(path)


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
