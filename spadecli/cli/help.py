"""``spade COMMAND -h``: one line for each option, in panels, the most used ones first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

if TYPE_CHECKING:
    from rich.console import RenderableType

# panels of options (``rich_help_panel``); what has none is shown first
INPUT, OUTPUT, SAMPLING, SPEED, CHECKS = "Input", "Output", "Sampling", "Speed", "Checks"
COMMON = "Common"  # the options of every command, in one sentence at the end

PLACEHOLDERS = {"int": "N", "float": "X", "path": "PATH", "str": "TEXT"}
LONGEST_NAME = 32  # of an option with what it takes; longer ones are cut off from the column of texts


class CompactCommand(TyperCommand):
    """A command with a compact help: Typer's own gives boxes, types of flags and variables lines of their own."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the whole help text, as wide as the terminal and coloured if it shows colours."""
        from rich.console import Console

        console = Console(highlight=False, emoji=False)
        with console.capture() as capture:
            for part in self._parts(ctx):
                console.print(part)
        formatter.write(re.sub(r" +$", "", capture.get(), flags=re.M))

    def _parts(self, ctx: Any) -> Iterator[RenderableType]:
        from rich.text import Text

        yield Text(self.get_usage(ctx) + "\n", "bold")
        yield Text("\n".join(" ".join(p.split()) for p in (self.help or "").split("\n\n")) + "\n")
        panels: dict[str, list[Any]] = {"": []}
        for param in self.get_params(ctx):
            name = COMMON if "--help" in param.opts else getattr(param, "rich_help_panel", None) or ""
            panels.setdefault(name, []).append(param)
        common = panels.pop(COMMON, [])
        width = max(len(_name(p, ctx)) for params in panels.values() for p in [*params, *common[:1]])
        for name, params in panels.items():
            if name:
                yield Text(f"{name}:", "bold")
            if params:
                yield _table(params, ctx, min(width, LONGEST_NAME))
        yield Text.assemble((f"{COMMON}: ", "bold"), ", ".join(_common(common)))


class Group(TyperGroup):
    """The list of commands. Its own options, such as --version, are none that an environment would set."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, without the names of their variables."""
        params: list[Any] = super().get_params(ctx)
        for param in params:
            param.show_envvar = False
        return params


def _table(params: Iterable[Any], ctx: Any, width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=width + 2, max_width=width + 2)
    table.add_column()
    for param in params:
        text = Text(param.help or "")
        if default := _default(param):
            text.append(f" [default: {default}]", "dim")
        table.add_row(Text(f"  {_name(param, ctx)}", "cyan"), text)
    return table


def _name(param: Any, ctx: Any) -> str:
    """ "-w, --weights FILE", "    --samples N", "    --[no-]verify", or an argument's name."""
    taken = param.display_type_rich(ctx).strip("<>").removesuffix(" range")
    taken = PLACEHOLDERS.get(taken, taken)
    if isinstance(param, TyperArgument):
        return str(param.metavar or param.name.upper())
    short = next((f"{o}, " for o in param.opts if not o.startswith("--")), " " * 4)
    long = next(o for o in param.opts if o.startswith("--"))
    if param.secondary_opts:
        long = long.replace("--", "--[no-]")
    return f"{short}{long}" if param.is_flag or param.count else f"{short}{long} {taken}"


def _default(param: Any) -> str:
    if isinstance(param.show_default, str):
        return param.show_default
    default = None if callable(param.default) else param.default
    if default is None or default is False or default == "" or not param.show_default:
        return ""
    return "yes" if default is True else str(default)


def _common(params: Iterable[Any]) -> Iterator[str]:
    for param in sorted(params, key=lambda p: ("--help" in p.opts, max(p.opts))):
        names = "/".join(sorted(param.opts, key=len))
        yield f"{names} ({param.help})" if param.help and "--help" not in param.opts else names
