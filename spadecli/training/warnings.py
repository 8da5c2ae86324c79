"""What is wrong with a run, read off the rows that it logs: pure functions, so a resumed run says nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Rows = Sequence[Mapping[str, Any]]

COLLAPSED_LOSS = 0.02  # hinge loss of the discriminator, fakes and real ones together; 2 where it knows nothing
COLLAPSED_STEPS = 500
SAME_STYLE = 0.01  # standard deviation over z of values in [-1,1]: a bit more than one of 255 levels
YOUNG_STEPS = 500  # before these, a generator does not show anything yet
SHOWN_CLASSES = 8


class News(NamedTuple):
    """What the last row changed: a warning that became true, or the all-clear of one that was."""

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


def news_of_discriminator(rows: Rows) -> News | None:
    """What to say after the last row of stats.jsonl, if anything."""
    return _news(
        rows,
        discriminator_collapsed,
        f"the discriminator's loss has been at 0 for {COLLAPSED_STEPS} steps: it tells every fake, and its gradients "
        "teach the generator nothing more; lower train.lr_d, or discriminator.ndf",
        "the discriminator's loss has left 0",
    )


def news_of_style(rows: Rows) -> News | None:
    """What to say after the last row of samples.jsonl, if anything."""
    last = rows[-1]["spread_over_z"] if rows else 0.0
    return _news(
        rows,
        style_ignored,
        f"style ignored: different z give the same image (they differ by {last:.4f}, of values from -1 to 1); "
        "train for longer, or where there is an encoder lower loss.kl, which lets it say more",
        f"z changes the image again (by {last:.4f})",
    )


def never_seen(names: Sequence[str]) -> str:
    """What to say about classes without a pixel in the training pairs, or ""."""
    if not names:
        return ""
    shown = ", ".join(names[:SHOWN_CLASSES]) + f" and {len(names) - SHOWN_CLASSES} more" * (len(names) > SHOWN_CLASSES)
    return f"classes never seen in the training pairs: {shown}; what they render as is left to chance"


def _news(rows: Rows, holds: Callable[[Rows], bool], warning: str, clear: str) -> News | None:
    before, now = holds(rows[:-1]), holds(rows)
    return News(warning if now else clear, now) if now != before else None
