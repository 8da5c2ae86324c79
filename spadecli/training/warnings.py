"""Warnings about a run, derived from its log rows: pure functions, so that a resumed run repeats none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Rows = Sequence[Mapping[str, Any]]

# of the discriminator, d_fake + d_real; if it cannot tell them apart at all, its hinge loss is 2, and its cross entropy
# over N classes 2 log(N + 1)
COLLAPSED_LOSS = 0.02
COLLAPSED_STEPS = 500
SAME_STYLE = 0.01  # standard deviation over z of values in [-1,1]: a bit more than one of 255 levels
YOUNG_STEPS = 500  # earlier samples say nothing yet
SHOWN_CLASSES = 8


class Notice(NamedTuple):
    """What the last row changed: a warning that became true, or the all-clear of an earlier one."""

    text: str
    is_warning: bool


def discriminator_collapsed(rows: Rows) -> bool:
    """Whether the discriminator's loss was at zero in every row of the last ``COLLAPSED_STEPS`` steps (stats.jsonl)."""
    for row in reversed(rows):
        if row["d_fake"] + row["d_real"] > COLLAPSED_LOSS:
            return bool(rows[-1]["step"] - row["step"] >= COLLAPSED_STEPS)
    return bool(rows and rows[-1]["step"] >= COLLAPSED_STEPS)


def style_ignored(rows: Rows) -> bool:
    """Whether different z gave the same image on the last sample sheet (samples.jsonl)."""
    return bool(rows and rows[-1]["step"] >= YOUNG_STEPS and rows[-1]["spread_over_z"] < SAME_STYLE)


def notice_of_discriminator(rows: Rows) -> Notice | None:
    """Return the news after the last row of stats.jsonl, if any."""
    return _news(
        rows,
        discriminator_collapsed,
        f"the discriminator's loss has been at 0 for {COLLAPSED_STEPS} steps: it recognises every fake, and the "
        "generator learns nothing from it any more; lower train.lr_d or discriminator.ndf",
        "the discriminator's loss is no longer at 0",
    )


def notice_of_style(rows: Rows) -> Notice | None:
    """Return the news after the last row of samples.jsonl, if any."""
    last = rows[-1]["spread_over_z"] if rows else 0.0
    return _news(
        rows,
        style_ignored,
        f"style ignored: different z give the same image (they differ by {last:.4f}, of values from -1 to 1); "
        "train for longer or, with an encoder, lower loss.kl, so that the style code can carry more",
        f"z changes the image again (by {last:.4f})",
    )


def never_seen(names: Sequence[str]) -> str:
    """Return a warning about classes without a pixel in the training pairs, or ""."""
    if not names:
        return ""
    shown = ", ".join(names[:SHOWN_CLASSES]) + f" and {len(names) - SHOWN_CLASSES} more" * (len(names) > SHOWN_CLASSES)
    return f"classes never seen in the training pairs: {shown}; what they will look like is left to chance"


def _news(rows: Rows, holds: Callable[[Rows], bool], warning: str, clear: str) -> Notice | None:
    before, now = holds(rows[:-1]), holds(rows)
    return Notice(warning if now else clear, now) if now != before else None
