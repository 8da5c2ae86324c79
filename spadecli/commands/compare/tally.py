"""``spade compare --tally``: shares of the votes with a binomial interval, and whether they could be chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from .votes import KEY_SUFFIX, OUT, read_key, read_votes

Z_95 = 1.959963984540054  # of the normal distribution, two-sided 95 %


@dataclass(frozen=True)
class Tally:
    """Votes for either folder; low and high: 95 % interval of the first one's share; p_value: exact, two-sided."""

    first: str
    second: str
    first_votes: int
    second_votes: int
    ballots: int
    pairs: int
    share: float
    low: float
    high: float
    p_value: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A summary for people."""
        total = self.first_votes + self.second_votes
        lines = [
            f"{self.first}: {self.first_votes} of {total} votes, {self.share:.1%} "
            f"(95 % interval {self.low:.1%} to {self.high:.1%})",
            f"{self.second}: {self.second_votes} of {total} votes, {1 - self.share:.1%}",
            f"{self.ballots} ballots on {self.pairs} pairs; p = {self.p_value:.3g} that both are chosen alike",
        ]
        if self.ballots > 1 or total > self.pairs:
            lines.append("votes of one person, and on one pair, are not independent: take the interval as the least")
        return lines


def tally(paths: Sequence[Path], key_path: Path | None) -> Tally:
    """Count files of votes with the key of their comparison; None: the only key file beside the votes, here or
    in OUT.

    Raises UserError where the key is missing, files do not belong to it, or they hold no votes.
    """
    if not paths:
        raise UserError("no files of votes", hint="spade compare --tally votes-*.json")
    key = read_key(key_path or _find_key(paths))
    votes = read_votes(paths, key)
    if not votes:
        raise UserError("no votes in these files")
    left_is = {int(row["pair"]): row["left"] for row in key["pairs"]}
    other = {"first": "second", "second": "first"}
    counts = Counter(left_is[pair] if choice == "left" else other[left_is[pair]] for (_, pair), choice in votes.items())
    first, total = counts["first"], len(votes)
    low, high = wilson_interval(first, total)
    return Tally(
        first=key["first"],
        second=key["second"],
        first_votes=first,
        second_votes=total - first,
        ballots=len({ballot for ballot, _ in votes}),
        pairs=len({pair for _, pair in votes}),
        share=first / total,
        low=low,
        high=high,
        p_value=sign_test(first, total),
    )


def _find_key(paths: Sequence[Path]) -> Path:
    folders = dict.fromkeys([*(p.parent for p in paths), Path(), OUT])
    keys = {p.resolve(): p for folder in folders for p in sorted(folder.glob(f"*{KEY_SUFFIX}"))}
    if len(keys) != 1:
        none = f"no key of the comparison beside the votes, here or in {OUT}"
        raise UserError(
            "several keys of comparisons" if keys else none,
            problems=[str(p) for p in keys.values()],
            hint="name it with --key FILE; it was written beside the page",
        )
    return next(iter(keys.values()))


def wilson_interval(successes: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Binomial confidence interval of a share (Wilson 1927); sound for few votes and for shares near 0 or 1."""
    share = successes / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def sign_test(successes: int, total: int) -> float:
    """Exact two-sided probability of a split at least this uneven where both sides are chosen alike."""
    fewer = min(successes, total - successes)
    # in logarithms: 2**total leaves the range of floats past a thousand votes
    log_terms = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * sum(math.exp(t) for t in log_terms))
