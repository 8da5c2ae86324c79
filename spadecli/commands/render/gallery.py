"""index.html: one static page that shows every mask beside its samples, made from the manifest alone.

Images of styles stand in columns, a style each, its reference on top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from ...store.atomic import write_text
from ...store.manifest import Journal, Row

NAME = "index.html"
MAX_MASKS = 5000


def write_gallery(out: Path, journal: Journal, rows: Sequence[Row]) -> Path:
    """Write OUT/index.html from ``image`` rows in order of mask and sample. Needs no file but the manifest.

    The page asks nothing from outside its folder. Beyond MAX_MASKS masks it shows the first and says so.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    options = journal.newest_options or {}
    known = (row for row in rows if row["mask"] in journal.masks)  # a mask's row comes with its next render
    groups = [(key, list(group)) for key, group in groupby(known, key=lambda row: row["mask"])]
    columns = _columns(journal, rows)
    channel_of = {c["name"]: i for i, c in enumerate(options.get("classes", ()))}
    page = environment.get_template("gallery.html.jinja").render(
        title=f"{options.get('card', 'spade')} renders",
        facts=_facts(options, groups),
        classes=[{"css": "rgb({} {} {})".format(*c["color"])} for c in options.get("classes", ())],
        columns=[{"caption": c["caption"], "url": quote(c["picture"])} for c in columns.values()],
        masks=[_mask(journal.masks[key], images, channel_of, columns) for key, images in groups[:MAX_MASKS]],
        num_left_out=max(0, len(groups) - MAX_MASKS),
    )
    path = out / NAME
    write_text(path, page)
    return path


def _columns(journal: Journal, rows: Sequence[Row]) -> dict[str, Row]:
    """Style rows by id, of the styles that images have, in order of first use; without any style, empty.

    Images without a style, in a folder that has both, come first, under "".
    """
    used = {row.get("style") or "" for row in rows}
    plain = {"": {"caption": "no style", "picture": ""}} if "" in used else {}
    styled = {id: row for id, row in journal.styles.items() if id in used}
    return plain | styled if styled else {}


def _facts(options: Row, groups: Sequence[tuple[str, list[Row]]]) -> list[tuple[str, str]]:
    """What was rendered and with what, as (name, value)."""
    if not options:
        return []
    rows = [row for _, images in groups for row in images]
    num_styles = len({row.get("style") for row in rows} - {None})
    samples = sorted(Counter((row["mask"], row.get("style")) for row in rows).values())
    facts = [
        ("weights", options["weights"]),
        ("masks", f"{len(groups):,}"),
        ("samples", " to ".join(str(n) for n in sorted({samples[0], samples[-1]})) if samples else "0"),
        ("size", options["size"]),
    ]
    if options["latent"] != "map":
        facts[3:3] = [("styles", f"{num_styles:,}")] if num_styles else []
        facts.insert(-1, ("seed", options["seed"] + (", shared by all masks" if options["shared_z"] else "")))
    if options["edges"]:
        facts.append(("instance edges", options["edges"]))
    return facts


def _mask(row: Row, images: Sequence[Row], channel_of: Mapping[str, int], columns: Mapping[str, Row]) -> dict[str, Any]:
    path = PurePosixPath(row["mask"])
    return {
        "key": row["mask"],
        "folder": "" if path.parent == PurePosixPath(".") else str(path.parent),
        "name": path.name,
        "colored": quote(row["colored"]),
        "size": row["size"],
        "legend": [
            {"index": channel_of[name], "name": name, "percent": f"{share:.1%}"}
            for name, share in row["shares"].items()
            if name in channel_of
        ],
        "images": [] if columns else [_image(image) for image in images],
        "cells": [
            [_image(image, style["caption"]) for image in images if (image.get("style") or "") == id]
            for id, style in columns.items()
        ],
    }


def _image(row: Row, style: str = "") -> dict[str, Any]:
    seed = f", seed {row['seed']}" if row["seed"] is not None else ""
    sample = "" if style and not seed else f"sample {row['sample']}{seed}"
    caption = ", ".join(filter(None, (style, sample)))
    return {"url": quote(row["file"]), "caption": caption, "size": row["size"]}
