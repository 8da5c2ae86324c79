"""index.html: one static page that shows every mask beside its samples, made from the manifest alone."""

from __future__ import annotations

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
    channel_of = {c["name"]: i for i, c in enumerate(options.get("classes", ()))}
    page = environment.get_template("gallery.html.jinja").render(
        title=f"{options.get('card', 'spade')} renders",
        facts=_facts(options, groups),
        classes=[{"css": "rgb({} {} {})".format(*c["color"])} for c in options.get("classes", ())],
        masks=[_mask(journal.masks[key], images, channel_of) for key, images in groups[:MAX_MASKS]],
        num_left_out=max(0, len(groups) - MAX_MASKS),
    )
    path = out / NAME
    write_text(path, page)
    return path


def _facts(options: Row, groups: Sequence[tuple[str, list[Row]]]) -> list[tuple[str, str]]:
    """What was rendered and with what, as (name, value)."""
    if not options:
        return []
    samples = sorted({len(images) for _, images in groups})
    facts = [
        ("weights", options["weights"]),
        ("masks", f"{len(groups):,}"),
        ("samples", " to ".join(str(n) for n in sorted({samples[0], samples[-1]})) if samples else "0"),
        ("size", options["size"]),
    ]
    if options["latent"] != "map":
        facts.insert(3, ("seed", options["seed"] + (", shared by all masks" if options["shared_z"] else "")))
    if options["edges"]:
        facts.append(("instance edges", options["edges"]))
    return facts


def _mask(row: Row, images: Sequence[Row], channel_of: Mapping[str, int]) -> dict[str, Any]:
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
        "images": [_image(image) for image in images],
    }


def _image(row: Row) -> dict[str, Any]:
    seed = f", seed {row['seed']}" if row["seed"] is not None else ""
    return {"url": quote(row["file"]), "caption": f"sample {row['sample']}{seed}", "size": row["size"]}
