"""Where the z of an image comes from: a seed alone, or a style and perhaps a seed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.seeds import sample_z
from ...core.style_code import StyleCode
from ...store.manifest import Row


@dataclass(frozen=True, eq=False)
class Style:
    """A style to render every mask in: its images lie in the folder ``name`` of the output folder.

    parts: sha256 of each photo that the code was made of, and its weight. picture: relative name of a picture of it,
    "" without any; caption: what people call it.
    """

    name: str
    code: StyleCode
    parts: tuple[tuple[str, float], ...]
    spherical: bool = False
    strength: float = 1.0
    noise: float = 0.0
    picture: str = ""
    caption: str = ""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        # photos, not mu: its last bits may differ from machine to machine, and the options row names the weights
        made_of = [self.name, self.parts, self.spherical, self.strength, self.noise]
        object.__setattr__(self, "id", hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16])

    def z(self, seed: int | None) -> NDArray[np.float32]:
        """Latent float32 [Z] of the sample of a 64-bit seed; None without noise."""
        eps = None if seed is None else sample_z(seed, len(self.code.mu))
        return self.code.z(self.strength, self.noise, eps)

    @cached_property
    def row(self) -> Row:
        """The manifest's ``style`` row; mu and logvar as base64 of little-endian float32."""
        return {
            "kind": "style",
            "id": self.id,
            "name": self.name,
            "parts": [list(part) for part in self.parts],
            "spherical": self.spherical,
            "strength": self.strength,
            "noise": self.noise,
            "picture": self.picture,
            "caption": self.caption,
            "mu": _packed(self.code.mu),
            "logvar": _packed(self.code.logvar),
        }


def style_of(row: Row) -> Style:
    """The style that a ``style`` row was made from."""
    return Style(
        name=row["name"],
        code=StyleCode(_unpacked(row["mu"]), _unpacked(row["logvar"])),
        parts=tuple((sha, weight) for sha, weight in row["parts"]),
        spherical=row["spherical"],
        strength=row["strength"],
        noise=row["noise"],
        picture=row["picture"],
        caption=row["caption"],
    )


def latent(style: Style | None, seed: int | None, z_dim: int) -> NDArray[np.float32]:
    """z float32 [z_dim] of an image: the style's, or without one a standard normal draw of the seed (else zeros)."""
    if style is not None:
        return style.z(seed)
    return np.zeros(z_dim, np.float32) if seed is None else sample_z(seed, z_dim)


def style_changes(old: Mapping[str, Any] | None, new: Style | None) -> str:
    """ "another style", or "strength 1 (now 0.5)" where that is all that differs."""
    if old is None or new is None or old["parts"] != [list(part) for part in new.parts]:
        return "another style"
    now = new.row
    keys = ("strength", "noise", "spherical")
    return ", ".join(f"{k} {old[k]} (now {now[k]})" for k in keys if old[k] != now[k]) or "another style"


def _packed(values: NDArray[np.float32]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _unpacked(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
