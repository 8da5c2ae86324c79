"""Verification of an artifact against its weights: both render the same masks from the same z."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from ..weights.card import Card
from .artifact import Precision
from .base import Backend
from .profile import Profile

PEAK = 2.0  # images are in [-1,1]
MAX_ABSOLUTE: dict[Precision, float] = {"fp32": 1e-4}
LEAST_PSNR: dict[Precision, float] = {"fp16": 45.0, "bf16": 40.0}
CODE_TOLERANCE = 1e-4
CELLS = 16  # cells per side of a test mask


@dataclass(frozen=True)
class Verification:
    """Differences between torch and the artifact over ``images`` images in [-1,1]; psnr (dB) is that of the worst.

    code_max: largest difference of style codes; None without an encoder.
    ran: what rendered for the artifact. stood_in: why that was not the artifact itself; "" if it was.
    """

    precision: Precision
    images: int
    max_abs: float
    mean_abs: float
    psnr: float
    code_max: float | None
    ran: str
    stood_in: str = ""

    @property
    def problems(self) -> list[str]:
        """The differences that exceed their tolerance."""
        found = []
        if not np.isfinite([self.max_abs, self.mean_abs]).all():
            found.append("its images hold values that are not finite")
        elif self.precision in MAX_ABSOLUTE and self.max_abs > MAX_ABSOLUTE[self.precision]:
            found.append(f"largest difference {self.max_abs:.2e}, allowed {MAX_ABSOLUTE[self.precision]:.0e}")
        elif self.precision in LEAST_PSNR and self.psnr < LEAST_PSNR[self.precision]:
            found.append(f"PSNR {self.psnr:.1f} dB, at least {LEAST_PSNR[self.precision]:.0f} dB needed")
        if self.code_max is not None and not self.code_max <= CODE_TOLERANCE:
            found.append(f"style codes differ by {self.code_max:.2e}, allowed {CODE_TOLERANCE:.0e}")
        return found

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        tolerance = (
            f"max {MAX_ABSOLUTE[self.precision]:.0e}"
            if self.precision in MAX_ABSOLUTE
            else f"{LEAST_PSNR[self.precision]:.0f} dB"
        )
        codes = "" if self.code_max is None else f"; style codes: max {self.code_max:.1e}"
        lines = [
            f"verified against torch on {self.images} images: max {self.max_abs:.1e}, mean {self.mean_abs:.1e}, "
            f"PSNR {self.psnr:.1f} dB (tolerance of {self.precision}: {tolerance}){codes}"
        ]
        if self.stood_in:
            lines.append(f"{self.stood_in}; {self.ran} stood in")
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return plain values, for JSON output. The PSNR of identical images is null."""
        data = asdict(self)
        data["psnr"] = None if np.isinf(self.psnr) else round(self.psnr, 2)
        return {**data, "file_was_run": not self.stood_in, "passed": not self.problems}


def verify(
    torch_backend: Backend,
    candidate: Backend,
    precision: Precision,
    *,
    profile: Profile | None = None,
    ran: str = "",
    stood_in: str = "",
) -> Verification:
    """Render the same inputs with both backends, at the candidate's size and within its profile."""
    card = candidate.card
    masks, samples = (2, 2) if profile is None else (min(2, profile.masks[2]), min(2, profile.samples[2]))
    labels, edges, z = fixed_inputs(card, masks, samples)
    expected, found = torch_backend.run(labels, edges, z), candidate.run(labels, edges, z)
    code_max = None
    if card.architecture.has_encoder:
        photos = fixed_photos()
        pairs = zip(torch_backend.encode(photos), candidate.encode(photos), strict=True)
        code_max = max(float(np.abs(a - b).max()) for a, b in pairs)
    return Verification(
        precision,
        len(expected),
        *differences(expected, found),
        code_max,
        ran or f"{candidate.name} on {candidate.device}",
        stood_in,
    )


def differences(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, float, float]:
    """Return the largest and mean absolute difference of images [N,3,H,W] in [-1,1], and the lowest PSNR in dB."""
    difference = a.astype(np.float64) - b
    worst = float(np.square(difference).mean(axis=(1, 2, 3)).max())
    psnr = float("inf") if worst == 0 else float(10 * np.log10(PEAK**2 / worst))
    return float(np.abs(difference).max()), float(np.abs(difference).mean()), psnr


def fixed_inputs(
    card: Card, masks: int, samples: int, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, NDArray[np.float32] | None]:
    """Make labels, edges and z that cover every class: random cells, with their borders as edges."""
    rng = np.random.default_rng(seed)
    height, width = card.architecture.size
    codes = card.labels.channel_to_code
    cells = rng.permuted(np.resize(codes, (masks, CELLS * CELLS)), axis=1).reshape(masks, CELLS, CELLS)
    rows, columns = np.arange(height) * CELLS // height, np.arange(width) * CELLS // width
    labels = np.ascontiguousarray(cells[:, rows][:, :, columns])
    edges = None
    if card.labels.instances:
        edges = np.zeros_like(labels)
        edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        edges[:, :, 1:] |= labels[:, :, 1:] != labels[:, :, :-1]
    z_dim = card.architecture.z_dim
    z = rng.standard_normal((masks * samples, z_dim)).astype(np.float32) if card.architecture.uses_z else None
    return labels, edges, z


def fixed_photos() -> NDArray[np.float32]:
    """Make two smooth photos float32 [2,3,192,320] in [-1,1]."""
    rng = np.random.default_rng(0)
    waves = rng.uniform(0.01, 0.2, (2, 3, 2))
    y, x = np.mgrid[:192, :320].astype(np.float32)
    photos = np.sin(waves[..., :1, None] * y + waves[..., 1:, None] * x) * 0.9
    smooth: NDArray[np.float32] = photos.astype(np.float32)
    return smooth


def refusal(what: str, verification: Verification) -> UserError:
    """Build the error for an artifact that exceeds its tolerance and is therefore not written."""
    return UserError(
        f"{what}: differs from torch by more than the tolerance of {verification.precision}; nothing was written",
        problems=verification.problems,
        hint="--precision fp32 is closest to torch; --no-verify writes it anyway",
    )
