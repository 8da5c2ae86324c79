from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
import pytest

from spadecli.core.seeds import sample_key, sample_seed, sample_z

GOLDEN = [
    ("facade/a", 0, 15932529117142139110, [-0.15103761851787567, -1.4651254415512085, 0.6219093799591064]),
    ("facade/a", 1, 17595977876298750018, [0.3253113925457001, 1.0928800106048584, 0.7093885540962219]),
    ("Häuser", 0, 13359361919781809042, [0.023111527785658836, 1.1862103939056396, -0.4607263505458832]),
    ("", 3, 297876317042804413, [0.07772302627563477, 1.64967679977417, -1.1640841960906982]),
]


@pytest.mark.parametrize(("key", "sample", "seed", "z"), GOLDEN)
def test_golden(key, sample, seed, z):
    assert sample_seed(7, key, sample) == seed
    digest = hashlib.sha256(b"7\0" + key.encode() + b"\0" + str(sample).encode()).digest()
    assert int.from_bytes(digest[:8], "little") == seed
    assert sample_z(seed, 3).tolist() == pytest.approx(z, abs=1e-7)
    by_hand = np.random.RandomState(np.frombuffer(digest[:8], "<u4")).standard_normal(3).astype("f4")
    assert np.array_equal(sample_z(seed, 3), by_hand)


def test_key_is_nfc_without_suffix():
    assert sample_key(unicodedata.normalize("NFD", "é/ü.tar.png")) == unicodedata.normalize("NFC", "é/ü.tar")
