"""styles.h5."""

import h5py
import numpy as np
import pytest

from spadecli.core.errors import UserError
from spadecli.core.style_code import StyleCode
from spadecli.store.styles_file import StyleEntry, read_styles, write_styles


def test_styles_round_trip(tmp_path):
    path = tmp_path / "styles.h5"
    codes = [StyleCode(np.full(3, i, np.float32), np.full(3, -i, np.float32)) for i in range(2)]
    entries = [StyleEntry(f"sub/é{i}", c, str(i) * 64, bytes([i, 255])) for i, c in enumerate(codes)]
    write_styles(path, entries, "w" * 64, 3, {"weights": "x"})
    found = read_styles(path)
    assert found.weights_sha256 == "w" * 64
    for a, b in zip(found.entries, entries, strict=True):
        assert (a.name, a.photo_sha256, a.thumbnail) == (b.name, b.photo_sha256, b.thumbnail)
        np.testing.assert_array_equal(a.code.mu, b.code.mu)
        np.testing.assert_array_equal(a.code.logvar, b.code.logvar)
    with h5py.File(path) as f:
        assert f["mu"].dtype == f["logvar"].dtype == "f4"
        assert f.attrs["weights_sha256"] == "w" * 64
    write_styles(path, [], "w", 3, {})
    assert read_styles(path).entries == ()


def test_what_is_no_styles_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_styles(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(UserError, match="not a readable HDF5"):
        read_styles(tmp_path / "text.h5")
