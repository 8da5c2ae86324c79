"""``spade``: the commands, and errors to exit codes. No heavy import here: ``spade --help`` is instant."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from ..core.errors import SpadeError, UserError
from ..core.ranks import Ranks, write_error_file
from ..core.version import VERSION
from .compare import compare
from .convert import convert
from .doctor import doctor
from .examples import examples
from .help import CompactCommand, Group
from .inspect import inspect
from .pack import pack
from .render import render
from .score import score
from .styles import styles
from .stylize import stylize
from .train import train
from .train_segmenter import train_segmenter
from .ui import print_error
from .usage_errors import usage_error

HELP = """Segmentation masks in, photographs out: the SPADE (GauGAN) model as a batch toolkit.

Example: spade render masks/ --samples 4
"""

app = typer.Typer(
    name="spade",
    cls=Group,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SPADE"},
)

COMMANDS: tuple[Callable[..., None], ...] = (
    pack,
    inspect,
    train,
    train_segmenter,
    convert,
    render,
    stylize,
    styles,
    score,
    compare,
    examples,
    doctor,
)
for command in COMMANDS:
    app.command(cls=CompactCommand)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"spade {VERSION}")
        raise typer.Exit


@app.callback()
def spade(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Top level; see HELP."""


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 done, 2 wrong input, 3 backend missing, 4 in part, 1 a bug, 130 Ctrl-C."""
    as_json = "--json" in sys.argv
    ranks = Ranks()
    try:
        ranks = Ranks.from_environment()
        code = app(prog_name="spade", standalone_mode=False)
    except SpadeError as e:
        _tell(e, ranks, as_json)
        sys.exit(e.exit_code)
    except typer.TyperException as e:
        if e.format_message() and ranks.prints_shared_errors:  # else it was "spade" alone, which has printed its help
            print_error(usage_error(e), as_json)
        sys.exit(UserError.exit_code)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        sys.exit(141)
    except Exception as e:
        import traceback

        traceback.print_exc()
        print("this is a bug in spade; please report it with the lines above", file=sys.stderr)
        write_error_file(f"{type(e).__name__}: {e}")
        sys.exit(1)
    if code == 130 and ranks.is_main:  # Typer turns Ctrl-C into this code
        print("interrupted; the same command resumes if it can", file=sys.stderr)
    sys.exit(code or 0)


def _tell(error: SpadeError, ranks: Ranks, as_json: bool) -> None:
    """Print a failure: an error common to all processes once, any other with the process it happened in."""
    if error.common and not ranks.is_main:
        return
    if ranks.size > 1 and not error.common:
        error.message = f"process {ranks.rank} of {ranks.size}: {error.message}"
    print_error(error, as_json)
    if not error.secondary:
        write_error_file(str(error))
