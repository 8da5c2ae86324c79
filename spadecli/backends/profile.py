"""Batch sizes of an engine: smallest, best and largest numbers of masks, and of samples per mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..core.errors import UserError

Range = tuple[int, int, int]


@dataclass(frozen=True)
class Chunk:
    """The part of a batch in one call of an engine.

    masks, samples: the requested ones. padded_masks, padded_samples: numbers in the call, padded by repeating the last.
    """

    masks: slice
    samples: slice
    padded_masks: int
    padded_samples: int

    @property
    def rows(self) -> int:
        """Number of rows of z in the call."""
        return self.padded_masks * self.padded_samples


@dataclass(frozen=True)
class Profile:
    """(smallest, best, largest) numbers of masks and of samples per mask; rows of z are their products."""

    masks: Range = (1, 4, 8)
    samples: Range = (1, 1, 4)

    @property
    def rows(self) -> Range:
        """(smallest, best, largest) numbers of rows of z."""
        least, best, most = (m * s for m, s in zip(self.masks, self.samples, strict=True))
        return least, best, most

    def chunks(self, masks: int, samples: int) -> Iterator[Chunk]:
        """Yield parts that cover ``masks`` times ``samples`` rows, each within the profile."""
        for m in range(0, masks, self.masks[2]):
            for s in range(0, samples, self.samples[2]):
                of_masks = slice(m, min(m + self.masks[2], masks))
                of_samples = slice(s, min(s + self.samples[2], samples))
                yield Chunk(
                    of_masks,
                    of_samples,
                    max(of_masks.stop - m, self.masks[0]),
                    max(of_samples.stop - s, self.samples[0]),
                )


def is_range(numbers: Range) -> bool:
    """Whether three numbers ascend from 1 on."""
    least, best, most = numbers
    return 1 <= least <= best <= most


def parse_range(flag: str, text: str) -> Range:
    """Parse "1,4,8" to (1, 4, 8). Raises UserError unless these are three ascending numbers from 1 on."""
    parts = text.split(",")
    if len(parts) == 3 and all(p.strip().isdecimal() for p in parts):
        least, best, most = (int(p) for p in parts)
        if is_range((least, best, most)):
            return least, best, most
    raise UserError(f"{flag} {text}: expected MIN,OPT,MAX, ascending from 1 on", hint=f"for example {flag} 1,4,8")
