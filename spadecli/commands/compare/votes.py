"""The files of a comparison that are read again: its key, and the ballots that voters save."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.errors import UserError

OUT = Path("compare")  # folder of page and key, unless another is named
KEY_SUFFIX = ".key.json"
KEY_FORMAT = "spade-compare-key"
BALLOT_FORMAT = "spade-compare-votes"


def read_key(path: Path) -> dict[str, Any]:
    """The key of a comparison. Raises UserError where the file is not one."""
    found = _read_json(path)
    if not isinstance(found, dict) or found.get("format") != KEY_FORMAT:
        raise UserError(f"{path}: not the key of a comparison", hint="spade compare writes it beside its page")
    return found


def read_votes(paths: Sequence[Path], key: dict[str, Any]) -> dict[tuple[str, int], str]:
    """Choices "left" or "right" by (ballot, pair); a ballot given twice counts once.

    Raises UserError that lists every file that is not a ballot, belongs to another study, or names unknown pairs.
    """
    known = {int(row["pair"]) for row in key["pairs"]}
    votes: dict[tuple[str, int], str] = {}
    problems = []
    for path in paths:
        try:
            ballot = _read_json(path)
            if not isinstance(ballot, dict) or ballot.get("format") != BALLOT_FORMAT:
                raise ValueError("not a file of votes")
            if ballot["study"] != key["study"]:
                raise ValueError(f"votes of study {ballot['study']}, the key is of study {key['study']}")
            for vote in ballot["votes"]:
                if vote["pair"] not in known or vote["choice"] not in ("left", "right"):
                    raise ValueError(f"pair {vote['pair']!r}, choice {vote['choice']!r}: not in this study")
                votes[str(ballot["ballot"]), int(vote["pair"])] = vote["choice"]
        except UserError as e:
            problems.append(e.line)
        except (ValueError, KeyError, TypeError) as e:
            problems.append(f"{path}: {e if isinstance(e, ValueError) else f'field {e} is missing or wrong'}")
    if problems:
        raise UserError(f"{len(problems)} of {len(paths)} files cannot be tallied", problems=problems)
    return votes


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as e:
        raise UserError(f"{path}: not JSON ({e})") from e
