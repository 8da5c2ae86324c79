"""Warnings about a run: each once, until it clears."""

import pytest

from spadecli.training import warnings as train_watch
from spadecli.training.warnings import (
    discriminator_collapsed,
    never_seen,
    notice_of_discriminator,
    notice_of_style,
    style_ignored,
)


def losses(*values: float, every: int = 100) -> list[dict]:
    return [{"step": (i + 1) * every, "d_fake": v / 2, "d_real": v / 2} for i, v in enumerate(values)]


def sheets(*values: float, every: int = 500) -> list[dict]:
    return [{"step": (i + 1) * every, "spread_over_z": v} for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "collapsed"),
    [
        ((), False),
        ((0.0,) * 4, False),
        ((0.0,) * 5, True),
        ((1.0, *(0.0,) * 4), False),
        ((1.0, *(0.0,) * 5), True),
        ((0.0,) * 5 + (0.5,), False),
        ((1.1, 0.9) * 10, False),
    ],
)
def test_a_discriminator_collapses_when_its_loss_stays_at_zero(values, collapsed):
    assert discriminator_collapsed(losses(*values)) == collapsed


def test_it_is_said_once_until_it_clears():
    rows = losses(1.0, *(0.0,) * 8, 0.7, 0.0, *(0.0,) * 8)
    news = [notice_of_discriminator(rows[: i + 1]) for i in range(len(rows))]
    assert [(i, n.is_warning) for i, n in enumerate(news) if n] == [(5, True), (9, False), (14, True)]
    assert "train.lr_d" in news[5].text
    assert "no longer at 0" in news[9].text


def test_style_is_ignored_when_z_changes_nothing():
    assert not style_ignored([])
    assert style_ignored(sheets(0.001))
    assert not style_ignored(sheets(0.001, 0.08))
    assert not style_ignored([{"step": 100, "spread_over_z": 0.0}])  # a young generator shows nothing yet
    rows = sheets(0.001, 0.002, 0.05, 0.06)
    assert [n.is_warning if n else None for n in (notice_of_style(rows[: i + 1]) for i in range(4))] == [
        True,
        None,
        False,
        None,
    ]
    assert "0.0010" in notice_of_style(rows[:1]).text


def test_a_run_that_is_resumed_says_nothing_twice():
    """The news depend on the rows alone, and those are in the run folder."""
    rows = losses(*(0.0,) * 7)
    assert notice_of_discriminator(rows) is None


def test_classes_without_a_pixel_are_listed_by_name():
    text = never_seen([f"c{i}" for i in range(0, 30, 2)])
    assert text.startswith("classes never seen in the training pairs: c0, c2, c4, c6, c8, c10, c12, c14 and 7 more;")
    assert never_seen([]) == ""
    assert train_watch.SHOWN_CLASSES == 8
