"""Use of the style code: known collapses and known shares are found."""

import numpy as np
import pytest
from fake_backend import FakeBackend, make_card

from spadecli.core.errors import UserError
from spadecli.metrics.color import lab, mean_lab
from spadecli.metrics.style_usage import kl_per_dimension, match, style_usage, variance_share


def test_lab_of_known_colours():
    colors = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255], [119, 119, 119]], np.uint8)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [50.03, 0, 0]]
    np.testing.assert_allclose(lab(colors), expected, atol=0.02)
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0] = 255
    np.testing.assert_allclose(mean_lab(picture), [50, 0, 0], atol=0.01)
    np.testing.assert_allclose(mean_lab(picture, np.array([[True, True], [False, False]])), [100, 0, 0], atol=0.01)
    assert np.isnan(mean_lab(picture, np.zeros((2, 2), bool))).all()


def test_kl_of_a_collapsed_and_of_a_used_dimension():
    mu = np.array([[0, 2.0], [0, -2.0]], np.float32)
    logvar = np.log(np.array([[1, 0.25], [1, 0.25]], np.float32))
    np.testing.assert_allclose(kl_per_dimension(mu, logvar), [0, 0.5 * (4 + 0.25 - 1 + np.log(4))], atol=1e-6)


@pytest.mark.parametrize("num_samples", [2, 8])
def test_share_of_variance_is_found_whatever_the_number_of_samples(num_samples):
    random = np.random.default_rng(0)
    mask_part = random.standard_normal((40, 1, 2000)) * 3
    z_part = random.standard_normal((40, num_samples, 2000)) * 2
    share = variance_share((mask_part + z_part).astype(np.float32))
    assert share == pytest.approx(4 / 13, abs=0.02)
    assert variance_share(np.repeat(mask_part, 3, axis=1).astype(np.float32)) == 0
    assert variance_share(np.repeat(z_part[:1], 5, axis=0).astype(np.float32)) == 1


def test_match_tells_right_from_shuffled_and_leaves_nan_out():
    references = np.array([[0.0, 0], [10, 0], [0, 10]])
    outputs = np.stack([references + 1, references * np.nan])
    outputs[1, 0] = references[1]  # an output that looks like another reference
    found = match(outputs, references)
    assert found.num_outputs == 4
    assert found.right == pytest.approx((3 * 2**0.5 + 10) / 4)
    assert found.top1 == 0.75
    assert match(references[None], references).ratio == 0
    with pytest.raises(UserError, match="2 references"):
        match(outputs[:, :1], references[:1])


def test_usage_of_a_backend_with_and_without_photos():
    backend = FakeBackend(make_card(latent="encoder"))
    labels = np.stack([np.full((64, 64), i, np.uint8) for i in range(3)])
    without = style_usage(backend, labels)
    assert (without.num_masks, without.num_samples, without.kl) == (3, 8, None)
    assert 0.1 < without.z_share < 0.9  # red depends on the mask, blue on z
    photos = np.random.default_rng(0).uniform(-1, 1, (20, 3, 1, 1)).astype(np.float32).repeat(8, 2).repeat(8, 3)
    usage = style_usage(backend, labels, photos)
    assert usage.active == 4
    assert usage.kl_total == pytest.approx(sum(usage.kl))
    assert list(usage.kl) == sorted(usage.kl, reverse=True)
    assert usage.as_json()["num_photos"] == 20


def test_usage_without_z_is_refused():
    with pytest.raises(UserError, match="no style"):
        style_usage(FakeBackend(make_card(latent="map")), np.zeros((2, 64, 64), np.uint8))
