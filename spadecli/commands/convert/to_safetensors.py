"""NVlabs checkpoints and weights files to a weights file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.labelspace import LabelSpace, auto_color
from ...core.report import Report
from ...data.folder import scan
from ...data.masks import read_photo, resize_photo
from ...data.pixels import photo_values
from ...model.encoder import ImageEncoder
from ...store.h5 import file_sha256
from ...training.recalibration import posterior_moments
from ...weights.card import Card
from ...weights.file import folded_state_dict, load_weights, save_weights
from ...weights.folding import fold_posterior
from ...weights.nvlabs import NVlabsOptions, import_generator
from ...weights.published import PRESETS, Published, published_labels
from .options import ConvertOptions, ConvertResult

States = tuple[Mapping[str, Tensor], Mapping[str, Tensor] | None]  # effective weights of generator and encoder


def to_safetensors(options: ConvertOptions, output: Path, report: Report) -> ConvertResult:
    """Write ``output``. Raises UserError where the source is damaged or does not fit the options (every key named)."""
    if options.source.suffix == ".safetensors":
        card, generator, encoder = load_weights(options.source)
    else:
        nvlabs = _nvlabs_options(options)
        architecture, generator, encoder = import_generator(options.source, options.encoder, nvlabs)
        if options.crop_size is not None and architecture.size[1] != options.crop_size:
            report.warn(
                f"crop size {options.crop_size} is no multiple of {architecture.stride}: {architecture.size[1]} it is"
            )
        card = Card(
            name=options.source.stem,
            architecture=architecture,
            labels=nvlabs.labels,
            description="imported from an NVlabs/SPADE checkpoint",
            licence="as the checkpoint's owner says; NVlabs' own are CC BY-NC-SA 4.0",
            parent=_origin(options.source),
        )
    card = card.model_copy(update={"metrics": {**card.metrics, **_metrics(options.metrics)}})
    states: States = folded_state_dict(generator), folded_state_dict(encoder) if encoder is not None else None
    if options.match_prior is not None:
        states, matched = _match_prior(options.match_prior, card, encoder, states)
        card = card.model_copy(update={"training": {**card.training, "prior_matched_on_photographs": matched}})
    if not options.dry_run:
        save_weights(output, card, *states, dtype="fp16" if options.half else "fp32")
    modules = [generator] if encoder is None else [generator, encoder]
    return ConvertResult(output, card, sum(p.numel() for m in modules for p in m.parameters()))


def _match_prior(folder: Path, card: Card, encoder: ImageEncoder | None, states: States) -> tuple[States, int]:
    """Fold the moments of the style codes of all photographs in a folder into the weights; also return their number."""
    if encoder is None or states[1] is None:
        raise UserError(f"--match-prior {folder}: these weights have no encoder, whose codes could be measured")
    photos = [item.path for item in scan(folder, "photos")]

    def batches() -> Iterator[Tensor]:
        for path in photos:
            yield torch.from_numpy(photo_values(resize_photo(read_photo(path), card.architecture.size)))[None]

    moments = posterior_moments(encoder.eval(), batches())
    return fold_posterior(states[0], states[1], *moments), len(photos)


def _nvlabs_options(options: ConvertOptions) -> NVlabsOptions:
    """Preset or flags; all that is still missing is named in one error."""
    base = PRESETS[options.preset] if options.preset else None
    if base is None:
        if options.num_classes is None:
            raise UserError(
                f"{options.source}: the file does not say how many classes it has",
                hint=f"--preset {'|'.join(PRESETS)}, or --num-classes N with --dont-care and --no-instance as trained",
            )
        base = Published(options.num_classes, dont_care=False, instance=True)

    def chosen(name: str) -> object:
        value = getattr(options, name)
        return getattr(base, name) if value is None else value

    if base.recipe and options.num_classes is options.dont_care is options.instance is None:
        labels = published_labels(base)
    else:
        num_classes, dont_care, instance = (chosen(name) for name in ("num_classes", "dont_care", "instance"))
        labels = _label_space(
            options.preset or "nvlabs", int(str(num_classes)), dont_care=bool(dont_care), instances=bool(instance)
        )
    return NVlabsOptions(
        labels=labels,
        crop_size=options.crop_size or base.crop_size,
        aspect=options.aspect or base.aspect,
        upsampling=options.upsampling or base.upsampling,
        norm=options.norm or base.norm,
    )


def _label_space(name: str, num_classes: int, *, dont_care: bool, instances: bool) -> LabelSpace:
    """File value = channel; 255 is the class after the last if there is a don't-care class."""
    if not 1 <= num_classes + dont_care <= 255:
        raise UserError(f"--num-classes {num_classes}: expected 1 to {255 - dont_care}")
    classes = [{"name": f"class {i}", "values": (i,), "color": auto_color(i)} for i in range(num_classes)]
    if dont_care:
        # the value after the last class too: checkpoints trained with that offset hold it
        values = tuple({255, num_classes}) if num_classes != 255 else (255,)
        classes.append({"name": "unknown", "values": tuple(sorted(values, reverse=True)), "color": (0, 0, 0)})
    return LabelSpace.model_validate(
        {"name": name, "classes": classes, "unknown": "unknown" if dont_care else None, "instances": instances}
    )


def _metrics(paths: Sequence[Path]) -> dict[str, Any]:
    metrics = {}
    for path in paths:
        try:
            metrics[path.stem] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as e:
            raise UserError(f"{path}: no readable JSON ({e})", hint="make it with spade score --json > FILE") from e
    return metrics


def _origin(path: Path) -> str:
    return f"{path.name} sha256 {file_sha256(path)}"
