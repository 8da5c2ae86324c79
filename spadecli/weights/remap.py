"""Carrying weights over to another label space: classes are matched by name, all other weights stay as they are.

Only layers that see the semantic map have a slice per class: the first convolution of every SPADE layer, the
generator's first layer if its input is the map, and the discriminator's first convolutions, or the last one of a
discriminator that names classes. There a class of both label spaces keeps its slice, a new class gets one at random, as
large as the trained ones, and a class missing from the new label space is dropped. On masks of carried classes alone
the function stays the same (with conditioning "concat" only if no class is dropped, as its norms include the channels
of absent classes).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.architecture import Architecture
from ..core.labelspace import LabelSpace
from ..core.recipe import DiscriminatorSection
from ..model.discriminator import AnyDiscriminator
from ..model.generator import Generator
from ..model.segmentation import SegmentationDiscriminator

SHOWN = 8
BRIDGED = (
    "size",
    "latent",
    "spectral_norm",
    "encoder_grid",
    "pixel_noise",
)  # fields that may differ, some with restrictions


LAYERS_FROM = {  # what each kind of discriminator is built from; a U-Net of another depth begins fresh
    "patch": {"kind", "ndf", "num_scales"},
    "projected": {"kind", "ndf", "features", "color_heads"},
    "segmentation": {"kind", "ndf"},
}


@dataclass(frozen=True)
class ClassTransfer:
    """The match of two label spaces.

    carried: pairs (old, new) of semantic channels, including edges, which come last. names: the carried classes' new
    names. new, dropped: names without a counterpart. renamed: "old -> new" for classes carried under another name.
    edges: whether the old and the new label space have an edge channel.
    """

    carried: tuple[tuple[int, int], ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    names: tuple[str, ...]
    renamed: tuple[str, ...]
    edges: tuple[bool, bool] = (False, False)

    @property
    def is_identity(self) -> bool:
        """Whether both label spaces have the same channels in the same order."""
        return not self.new and not self.dropped and all(old == new for old, new in self.carried)

    @property
    def lines(self) -> list[str]:
        """The match as lines of text."""
        if self.is_identity and not self.renamed:
            return ["classes: all carried"]
        lines = []
        for what, names in (("carried", self.names), ("new", self.new), ("dropped", self.dropped)):
            lines.append(f"classes {what}: {_listed(names) if names else 'none'}")
        return lines + ([f"carried under another name: {_listed(self.renamed)}"] if self.renamed else [])


class Place(NamedTuple):
    """The position of the semantic channels in a tensor: from ``offset`` on in dimension ``dim``; with or without the
    edge channel, if there is one."""

    dim: int
    offset: int
    has_edges: bool = True


def match_classes(old: LabelSpace, new: LabelSpace) -> ClassTransfer:
    """Match the channels of two label spaces.

    Classes are matched by exact name; then by name regardless of case, spaces, "-" and "_"; then unknown with unknown,
    whatever their names. Edge channels match each other.
    """
    old_channel = {c.name: i for i, c in enumerate(old.classes)}
    new_channel = {c.name: i for i, c in enumerate(new.classes)}
    origin = {name: name for name in new_channel if name in old_channel}  # new name -> old name
    free = {_plain(name): name for name in reversed(old_channel) if name not in origin}
    for name in new_channel:
        if name not in origin and _plain(name) in free:
            origin[name] = free.pop(_plain(name))
    if old.unknown and new.unknown and new.unknown not in origin and old.unknown not in origin.values():
        origin[new.unknown] = old.unknown
    carried = sorted(((old_channel[a], new_channel[b]) for b, a in origin.items()), key=lambda pair: pair[1])
    fresh = [name for name in new_channel if name not in origin]
    dropped = [name for name in old_channel if name not in origin.values()]
    if old.instances and new.instances:
        carried.append((old.num_classes, new.num_classes))
    elif new.instances:
        fresh.append("(instance edges)")
    elif old.instances:
        dropped.append("(instance edges)")
    return ClassTransfer(
        carried=tuple(carried),
        new=tuple(fresh),
        dropped=tuple(dropped),
        names=tuple(name for name in new_channel if name in origin),
        renamed=tuple(f"{a} -> {b}" for b, a in origin.items() if a != b),
        edges=(old.instances, new.instances),
    )


def generator_places(generator: Generator) -> dict[str, Place]:
    """Return the generator's tensors that have a slice per semantic channel, and where."""
    arch, names = generator.arch, generator.state_dict().keys()
    places = {name: Place(1, 0) for name in names if name.endswith(".shared.weight")}
    if not arch.uses_z:
        places["fc.weight"] = Place(1, 0)
    if generator.concat_input:  # the semantic channels follow the features in the first block's input
        for name in names:
            if re.match(r"blocks\.0\.norm_[0s]\.norm\.(weight|bias|running_mean|running_var)$", name):
                places[name] = Place(0, 16 * arch.ngf)
            elif name in ("blocks.0.conv_0.weight", "blocks.0.conv_s.weight"):
                places[name] = Place(1, 16 * arch.ngf)
    return places


def discriminator_places(discriminator: AnyDiscriminator) -> dict[str, Place]:
    """The discriminator's tensors that have a slice per semantic channel, or per class."""
    if isinstance(discriminator, SegmentationDiscriminator):
        return {name: Place(0, 0, has_edges=False) for name in ("head.weight", "head.bias")}
    return {name: Place(1, offset) for name, offset in discriminator.semantic_offsets().items()}


@torch.no_grad()
def remap_classes(
    old: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    places: Mapping[str, Place],
    channels: tuple[int, int],
    transfer: ClassTransfer,
) -> dict[str, Tensor]:
    """Convert ``old`` tensors to the new label space.

    fresh: initial tensors of the new network. channels: numbers of semantic channels (old, new).
    """
    carried = dict(old)
    if transfer.is_identity:
        return carried
    for name, place in places.items():
        before, offset = old[name], place.offset
        pairs = transfer.carried if place.has_edges else transfer.carried[: len(transfer.names)]
        olds, news = torch.tensor(pairs, dtype=torch.long).view(-1, 2).unbind(1)
        edges = (0, 0) if place.has_edges else transfer.edges
        old_count, new_count = (count - has for count, has in zip(channels, edges, strict=True))
        initial = fresh[name].detach().to(before.device, before.dtype)
        after = _like_trained(initial, before.narrow(place.dim, offset, old_count), place)
        after.narrow(place.dim, 0, offset).copy_(before.narrow(place.dim, 0, offset))
        after.index_copy_(place.dim, offset + news, before.index_select(place.dim, offset + olds))
        rest = before.shape[place.dim] - offset - old_count
        if rest:
            others = before.narrow(place.dim, offset + old_count, rest)
            after.narrow(place.dim, offset + new_count, rest).copy_(others)
        carried[name] = after
    return carried


def _like_trained(fresh: Tensor, trained: Tensor, place: Place) -> Tensor:
    """Return initial values with the mean of the classes' ``trained`` slices, and with their deviation from it.

    Training begins with weights a hundred times smaller than those it ends with: a class that began like that beside
    trained ones would hardly be seen, and be learned last.
    """
    spread = (trained - trained.mean(place.dim, keepdim=True)).std()
    if place.dim == 0 or not spread > 0 or not fresh.std() > 0:  # norms and logits keep theirs; one class has no spread
        return fresh.clone()
    return trained.mean(place.dim, keepdim=True) + (fresh - fresh.mean()) * (spread / fresh.std())


def differences(
    old: Architecture, new: Architecture, old_d: DiscriminatorSection | None, new_d: DiscriminatorSection
) -> list[str]:
    """Return every difference that rules out starting the new networks from the old ones, as "key: old -> new".

    The training size may differ; latents "noise" and "encoder" have the same generator, without or with an encoder; an
    encoder with a grid can start from one without, and a generator with pixel noise too.
    old_d: None if there is no discriminator to start from.
    """
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    keys = [key for key in after if key not in BRIDGED and before[key] != after[key]]
    if old.uses_z != new.uses_z:
        keys.append("latent")
    if not (old.uses_z or new.uses_z) and "z_dim" in keys:
        keys.remove("z_dim")
    if old.pixel_noise and not new.pixel_noise:
        keys.append("pixel_noise")
    if old.has_encoder and new.has_encoder and old.encoder_grid not in (0, new.encoder_grid):
        keys.append("encoder_grid")
    problems = [f"model.{key}: {before[key]} -> {after[key]}" for key in keys]
    if old_d is not None:
        d_before, d_after = (d.model_dump(include=LAYERS_FROM[d.kind]) for d in (old_d, new_d))
        problems += [f"discriminator.{k}: {d_before[k]} -> {v}" for k, v in d_after.items() if d_before[k] != v]
    return problems


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{len(names)} ({shown}{', ...' * (len(names) > SHOWN)})"
