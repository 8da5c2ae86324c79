"""Instance edges and connected components, against plain formulations."""

from collections import deque

import numpy as np
import pytest
from conftest import shared

from spadecli.data.edges import connected_components, instance_edges
from spadecli.data.masks import read_instances


def plain_edges(ids):
    height, width = ids.shape
    edges = np.zeros(ids.shape, np.uint8)
    for y in range(height):
        for x in range(width):
            for a, b in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= a < height and 0 <= b < width and ids[a, b] != ids[y, x]:
                    edges[y, x] = 1
    return edges


def plain_components(codes):
    height, width = codes.shape
    numbers, n = np.full(codes.shape, -1), 0
    for start in np.ndindex(codes.shape):
        if numbers[start] >= 0:
            continue
        numbers[start], queue = n, deque([start])
        while queue:
            y, x = queue.popleft()
            for a, b in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= a < height and 0 <= b < width and numbers[a, b] < 0 and codes[a, b] == codes[y, x]:
                    numbers[a, b] = n
                    queue.append((a, b))
        n += 1
    return numbers


@pytest.mark.parametrize("classes", [1, 2, 3, 9])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (23, 31)])
def test_like_the_plain_formulation(classes, shape):
    codes = np.random.default_rng(classes).integers(0, classes, shape, np.uint8)
    components = connected_components(codes)
    assert components.dtype == np.uint32
    assert (components == plain_components(codes)).all()
    assert (instance_edges(codes) == plain_edges(codes)).all()


def test_spiral_is_one_component():
    spiral = np.zeros((41, 41), np.uint8)
    y, x, step, turn = 20, 20, 1, 0
    directions = ((0, 1), (1, 0), (0, -1), (-1, 0))
    while True:
        dy, dx = directions[turn % 4]
        for _ in range(2 * ((turn // 2) + 1)):
            y, x = y + dy, x + dx
            if not (0 <= y < 41 and 0 <= x < 41):
                break
            spiral[y, x] = 1
        else:
            turn += step
            continue
        break
    assert (connected_components(spiral) == plain_components(spiral)).all()
    assert len(np.unique(connected_components(spiral)[spiral == 1])) == 1


def test_touching_corners_are_apart():
    assert len(np.unique(connected_components(np.eye(4, dtype=np.uint8)[:2, :2]))) == 4


def test_both_pixels_of_a_pair_are_marked_and_batches_stay_apart():
    ids = np.zeros((2, 3, 4), np.uint32)
    ids[0, :, 2:] = 1 << 31
    edges = instance_edges(ids)
    assert edges.dtype == np.uint8
    assert edges[0].tolist() == [[0, 1, 1, 0]] * 3
    assert not edges[1].any()


def test_real_instance_maps():
    ids = read_instances(sorted(shared("data", "coco_sample", "train_inst").iterdir())[0])
    assert (instance_edges(ids) == plain_edges(ids)).all()
