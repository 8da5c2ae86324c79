"""Arithmetic of style codes."""

import numpy as np
import pytest

from spadecli.core.errors import UserError
from spadecli.core.style_code import StyleCode, mix


def code(*mu: float, logvar: float = 0.0) -> StyleCode:
    return StyleCode(np.array(mu, np.float32), np.full(len(mu), logvar, np.float32))


def test_z_is_strength_mu_plus_noise_sigma_eps():
    eps = np.array([1.0, -1.0], np.float32)
    np.testing.assert_allclose(code(2, 4, logvar=2 * np.log(3)).z(0.5, 2, eps), [1 + 6, 2 - 6], rtol=1e-6)
    np.testing.assert_array_equal(code(2, 4).z(1.5), [3, 6])


def test_mix_is_relative_to_the_sum_of_the_weights():
    mixed = mix([code(0, 0), code(4, 8, logvar=2)], [1, 3])
    np.testing.assert_allclose(mixed.mu, [3, 6])
    np.testing.assert_allclose(mixed.logvar, 1.5)
    np.testing.assert_allclose(mix([code(1, 0), code(0, 1)], [1.5, -0.5]).mu, [1.5, -0.5])
    with pytest.raises(UserError, match="add up to 0"):
        mix([code(1), code(2)], [1, -1])


def test_spherical_turns_and_keeps_the_length():
    half = mix([code(2, 0), code(0, 4)], [1, 1], spherical=True).mu
    np.testing.assert_allclose(half, np.array([3, 3]) / 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(mix([code(2, 0), code(0, 4)], [1, 0], spherical=True).mu, [2, 0], atol=1e-7)
    np.testing.assert_allclose(mix([code(0, 0), code(0, 4)], [1, 1], spherical=True).mu, [0, 2])
    np.testing.assert_allclose(mix([code(1, 1), code(2, 2)], [1, 1], spherical=True).mu, [1.5, 1.5])
    with pytest.raises(UserError, match="not 3"):
        mix([code(1)] * 3, [1, 1, 1], spherical=True)
