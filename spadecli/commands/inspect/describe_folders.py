"""Folders that spade wrote: renders by their manifest, runs by their run.json."""

from __future__ import annotations

from pathlib import Path

from ...store.manifest import NAME, read_manifest
from ...store.run_folder import RunFolder, read_rows
from .describe_files import Description, class_rows, options_in_short


def is_renders(path: Path) -> bool:
    """Whether a folder has a manifest of renders."""
    return (path / NAME).is_file()


def is_run(path: Path) -> bool:
    """Whether a folder is that of a training run."""
    return RunFolder(path).exists


def describe_renders(folder: Path) -> Description:
    """(kind, facts, no rows, no label space) of a folder of renders.

    facts also name the images that are missing, and those whose file is not as long as it was when rendered.
    Raises UserError where the manifest is damaged.
    """
    journal = read_manifest(folder / NAME)
    images = journal.images.values()
    lengths = {row["file"]: _length(folder / row["file"]) for row in images}
    facts = {
        **(options_in_short(journal.newest_options) if journal.newest_options else {}),
        "masks": len({row["mask"] for row in images}),
        "images": len(images),
        "missing": [file for file, length in lengths.items() if length is None],
        "changed": [
            row["file"]
            for row in images
            if lengths[row["file"]] is not None and lengths[row["file"]] != row.get("num_bytes")
        ],
    }
    return "renders", facts, [], None


def describe_run(folder: Path) -> Description:
    """(kind, facts, classes, label space) of a training run.

    Raises UserError where its run.json is damaged.
    """
    run = RunFolder(folder)
    record = run.read()
    labels = record.recipe.labels
    stats = run.stats()
    validation = read_rows(run.validation_path)
    facts = {
        "recipe": record.recipe.name,
        "step": record.steps if record.finished else (stats[-1]["step"] if stats else 0),
        "steps": record.steps,
        "finished": record.finished,
        "weights": str(run.weights_path) if run.weights_path.is_file() else None,
        "best": str(run.best_path) if run.best_path.is_file() else None,
        "validation": validation[-1] if validation else None,
        "created_by": record.created_by,
    }
    return "run", facts, class_rows(labels), labels


def _length(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
