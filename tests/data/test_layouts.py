"""The example masks: golden, different from one another, and in the grammar of the data base."""

import hashlib

import numpy as np
import pytest

from spadecli.data.layouts import BACKGROUND, EXAMPLES, FACADE, WINDOW, Bay, House, Layout, Storey, draw

GOLDEN = {
    "apartments": "1773f9cce4565c9045c37acea4ee061e27c5b5b581b44ee715abdc1ba8a05237",
    "corner": "b837dcaf9c93ecfb07126946c8c2c49a4302685bab8d847c962c71358272f027",
    "gables": "f13afd1b8fa44d251913ffd9cc1980ac82dd6691bdc5ca47fe491bc237c32772",
    "haussmann": "9c713cb6ae5720f13269a0274b634d4152cbebee1c55ccdad1932012eb917ed9",
    "loft": "96686c7894d93a69e72e3c85dfd269d66b35a5ccf76ca7c7dcfe0ceb7a4e3310",
    "office": "15847dd2aa6c10b62c86ed82f4c56d364a16b2e1d8699b64ad05d35a4d47459e",
    "palazzo": "94ea7e09508a8c9cecaf36984aa6f022523f8a7b03cee407fa0146d3c112ad9d",
    "terrace": "7e47736299b2e73b4152f6227e1da6632e606039226ea6797c23e25c6ed494f0",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_masks_are_golden(name):
    assert hashlib.sha256(draw(EXAMPLES[name]).tobytes()).hexdigest() == GOLDEN[name]


def test_there_is_a_golden_value_for_every_mask():
    assert sorted(EXAMPLES) == sorted(GOLDEN)


def test_all_classes_appear_and_nothing_else():
    masks = [draw(layout) for layout in EXAMPLES.values()]
    assert sorted({int(v) for m in masks for v in np.unique(m)}) == list(range(12))
    assert all(m.shape == (256, 256) and m.dtype == np.uint8 for m in masks)


def test_masks_differ_in_kind():
    masks = [draw(layout) for layout in EXAMPLES.values()]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert (a != b).mean() > 0.2


@pytest.mark.parametrize("name", EXAMPLES)
def test_houses_stay_inside_the_picture(name):
    for house in EXAMPLES[name].houses:
        assert 0 <= house.left < house.right <= 256
        assert house.top + sum(s.height for s in house.storeys) <= 256


def test_a_storey_is_drawn_where_it_says():
    mask = draw(Layout((House(10, 50, 20, (Storey(40, "w."),)),), {"w": Bay(8, 12, raise_=6)}))
    assert (mask == WINDOW).sum() == 8 * 12
    assert (mask[42:54, 16:24] == WINDOW).all()
    assert (mask != BACKGROUND).sum() == 40 * 40
    assert mask[20, 10] == mask[59, 49] == FACADE
