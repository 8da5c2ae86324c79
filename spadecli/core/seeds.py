"""The seed rule: z of a sample depends on (seed, mask name, sample number) and on nothing else.

It is therefore the same for any batch size, order, backend, library version and number of processes.
"""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray


def sample_key(relative_path: str | PurePath) -> str:
    """Return the name of a mask in the seed rule: its relative POSIX path without suffix, in Unicode NFC."""
    path = PurePath(relative_path)
    return unicodedata.normalize("NFC", path.with_suffix("").as_posix())


def sample_digest(seed: int, key: str, sample: int) -> bytes:
    r"""Return the first 8 bytes of the SHA-256 of ``f"{seed}\0{key}\0{sample}"`` (UTF-8)."""
    return hashlib.sha256(f"{seed}\0{key}\0{sample}".encode()).digest()[:8]


def sample_seed(seed: int, key: str, sample: int) -> int:
    """Return the 64-bit seed of one sample, as stored in renders.h5 and the manifest."""
    return int.from_bytes(sample_digest(seed, key, sample), "little")


def sample_z(sample_seed: int, z_dim: int) -> NDArray[np.float32]:
    """Return the latent z of one sample from its 64-bit seed: float32 [z_dim], standard normal.

    RandomState's stream is frozen by NumPy's compatibility policy, unlike Generator's.
    """
    words = np.frombuffer(sample_seed.to_bytes(8, "little"), dtype="<u4")
    return np.random.RandomState(words).standard_normal(z_dim).astype(np.float32)
