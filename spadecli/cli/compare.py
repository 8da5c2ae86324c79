"""``spade compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UserError
from .ui import UI, AsJson, DryRun, Quiet, Verbose


def compare(
    paths: Annotated[
        list[Path], typer.Argument(metavar="A B", help="Two folders of renders; with --tally, the files of votes.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder for page and key.", show_default="compare")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Pairs to show, drawn at random.", show_default="100")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Fixes pairs, order and sides.", show_default="random")
    ] = None,
    tally: Annotated[bool, typer.Option("--tally", help="Count files of votes.")] = False,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --tally: the key.", show_default="beside the votes, or in compare/"),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Compare two folders of renders by a blind user study: a page to vote on, and a key for you.

    Example: spade compare renders/ other/ -o study/

    Voters send files of votes: spade compare --tally votes-*.json --key study/compare.key.json
    """
    ui = UI(quiet, verbose, as_json)
    from ..commands.compare import command
    from ..commands.compare.tally import tally as count_votes

    _check(tally, {"--out": out, "--pairs": pairs, "--seed": seed, "--dry-run": dry_run or None}, key)
    if tally:
        counted = count_votes(paths, key)
        ui.result(counted.as_json(), counted.lines())
        return
    if len(paths) != 2:
        raise UserError(f"expected two folders of renders, found {len(paths)}", hint="spade compare A B")
    first, second = paths
    options = command.CompareOptions(first, second, out or command.OUT, pairs or command.PAIRS, seed, dry_run)
    result = command.compare(options)
    ui.result(result.as_json(), result.lines())


def _check(tally: bool, of_the_page: dict[str, object], key: Path | None) -> None:
    """Raise UserError where an option belongs to the other half of the command."""
    useless = [name for name, value in of_the_page.items() if value is not None] if tally else []
    if useless:
        raise UserError(f"--tally counts votes and writes nothing; leave out {', '.join(useless)}")
    if key is not None and not tally:
        raise UserError("--key names the key of votes; it needs --tally")
