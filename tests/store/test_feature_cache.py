from __future__ import annotations

from pathlib import Path

import numpy as np

from spadecli.store import h5
from spadecli.store.feature_cache import FeatureStore

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_files_are_merged_and_looked_up_by_hash(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, {"extractor": "tiny"})
    store.add(["a", "b"], ["aa", "bb"], ROWS[:2])
    store.add(["c", "d"], ["cc", "dd"], ROWS[2:])
    assert len(list(tmp_path.glob("*.h5"))) == 2
    again = FeatureStore(tmp_path, {})
    again.load(["dd", "aa", "zz"])
    assert "aa" in again
    assert "zz" not in again
    assert "bb" not in again  # nobody asked for it
    np.testing.assert_array_equal(again.rows(["dd", "aa", "dd"]), ROWS[[3, 0, 3]])


def test_files_say_what_they_are(tmp_path: Path) -> None:
    FeatureStore(tmp_path, {"extractor": "tiny", "size": [4, 4]}).add(["ä.png"], ["aa"], ROWS[:1])
    with h5.open_read(next(tmp_path.glob("*.h5")), "features") as f:
        assert h5.config_of(f) == {"extractor": "tiny", "size": [4, 4]}
        assert list(f["name"].asstr()[:]) == ["ä.png"]
        assert f["feature"].dtype == np.float32
        assert f.attrs["source_sha256"] == h5.source_digest([("ä.png", "aa")])


def test_damaged_files_are_passed_over(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, {})
    store.add(["a"], ["aa"], ROWS[:1])
    store.add(["b"], ["bb"], ROWS[1:2])
    for path in tmp_path.glob("*.h5"):
        with h5.open_read(path) as f:
            damaged = f["sha256"].asstr()[0] == "aa"
        if damaged:
            path.write_bytes(path.read_bytes()[:100])
    again = FeatureStore(tmp_path, {})
    again.load(["aa", "bb"])
    assert "aa" not in again
    assert "bb" in again


def test_an_empty_folder_knows_nothing(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "none", {})
    store.load(["aa"])
    assert "aa" not in store
