"""Instance edges, and connected components as a substitute for instance maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def instance_edges(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """Mark pixels with 1 if one of their four neighbours has another id, else 0 (on both sides of an edge).

    ids: integers [H,W] or [M,H,W] -> uint8 of the same shape.
    """
    edges = np.zeros(ids.shape, np.uint8)
    across = ids[..., :, 1:] != ids[..., :, :-1]
    edges[..., :, 1:] |= across
    edges[..., :, :-1] |= across
    down = ids[..., 1:, :] != ids[..., :-1, :]
    edges[..., 1:, :] |= down
    edges[..., :-1, :] |= down
    return edges


def connected_components(codes: NDArray[Any]) -> NDArray[np.uint32]:
    """Number the 4-connected components of equal codes from 0 in reading order: integers [H,W] -> uint32 [H,W].

    Horizontal runs are found first; runs that touch in neighbouring rows are then merged.
    """
    starts_run = np.ones(codes.shape, bool)
    starts_run[:, 1:] = codes[:, 1:] != codes[:, :-1]
    run_of = (np.cumsum(starts_run.ravel()) - 1).reshape(codes.shape)
    same_below = codes[1:] == codes[:-1]
    # every overlap of two equal runs is counted once, at its left end, where one of the two begins
    begins = starts_run[1:] | starts_run[:-1]
    touching = same_below & begins
    parent = _unite(int(run_of[-1, -1]) + 1, run_of[:-1][touching], run_of[1:][touching])
    is_root = parent == np.arange(len(parent))
    numbers = np.cumsum(is_root) - 1
    components: NDArray[np.uint32] = numbers.astype(np.uint32)[parent][run_of]
    return components


def _unite(n: int, a: NDArray[np.intp], b: NDArray[np.intp]) -> NDArray[np.intp]:
    """Merge the sets of every pair (a[i], b[i]) and return the smallest member of each element's set: [n]."""
    parent = np.arange(n)
    while len(a):
        low, high = np.minimum(a, b), np.maximum(a, b)
        np.minimum.at(parent, high, low)
        while (parent[parent] != parent).any():
            parent = parent[parent]
        a, b = parent[a], parent[b]
        apart = a != b
        a, b = a[apart], b[apart]
    return parent
