"""A discriminator that segments (OASIS; Schönfeld et al., ICLR 2021, "You Only Need Adversarial Supervision for
Semantic Image Synthesis", section 3.2 and appendix).

A U-Net says of each pixel which of the N classes of the label space a photograph shows there, or that it is fake, the
class N+1. It never sees the label map: it has to find the classes in the image, and teaches the generator to draw them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import conv, convolve_all
from .losses import Verdict, at_least_fp32
from .semantic import NO_CLASS, BatchClasses, SemanticMap

LEAK = 0.2
WIDTHS = (2, 2, 4, 4, 8, 8)  # of the encoder's maps, as multiples of the base width


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, all spectrally normalized; doubles or halves height and width.

    first: the input is an image, to which no nonlinearity is applied.
    """

    def __init__(self, fin: int, fout: int, up: bool, first: bool = False) -> None:
        super().__init__()
        self.up, self.first = up, first
        self.conv_0 = conv(fin, fout, 3, padding=1, spectral=True)
        self.conv_1 = conv(fout, fout, 3, padding=1, spectral=True)
        self.conv_s = conv(fin, fout, 1, spectral=True) if fin != fout else None

    def forward(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """Batches [N,fin,h,w] -> [N,fout,2h,2w] or [N,fout,h/2,w/2]."""
        xs = list(batches) if self.first else [F.leaky_relu(x, LEAK) for x in batches]
        if self.up:
            xs = [_double(x) for x in xs]
        xs = [F.leaky_relu(x, LEAK) for x in convolve_all(self.conv_0, xs)]
        xs = convolve_all(self.conv_1, xs)
        # a 1x1 convolution and a change of size may change places: it is done where there are fewer pixels
        shortcuts = list(batches) if self.up else [F.avg_pool2d(x, 2) for x in batches]
        if self.conv_s is not None:
            shortcuts = convolve_all(self.conv_s, shortcuts)
        if self.up:
            return [x + _double(shortcut) for x, shortcut in zip(xs, shortcuts, strict=True)]
        return [F.avg_pool2d(x, 2) + shortcut for x, shortcut in zip(xs, shortcuts, strict=True)]


class SegmentationDiscriminator(nn.Module):
    """The U-Net, with cross entropy balanced over the classes, and LabelMix.

    unknown: the class whose pixels the cross entropies leave out, or None. depth: number of halvings, see
    :func:`unet_depth`. ndf: base width.
    label_mix: weight of the consistency of mixed images; it counts where a step gives classes to mix.
    """

    def __init__(
        self, num_classes: int, unknown: int | None, depth: int, ndf: int = 64, label_mix: float = 10.0
    ) -> None:
        super().__init__()
        self.unknown, self.label_mix = unknown, label_mix
        widths = [3, *(ndf * factor for factor in WIDTHS[:depth])]  # by the number of halvings
        self.down = nn.ModuleList(ResidualBlock(widths[i], widths[i + 1], up=False, first=i == 0) for i in range(depth))
        # a map of the decoder is as wide as the encoder's, and joined with it; the coarsest is the encoder's alone
        fins = [2 * width for width in widths[1:-1]] + widths[-1:]
        fouts = [ndf, *widths[1:-1]]
        self.up = nn.ModuleList(ResidualBlock(fins[i], fouts[i], up=True) for i in reversed(range(depth)))
        self.head = nn.Conv2d(ndf, num_classes + 1, 1)

    @property
    def chance_loss(self) -> float:
        """The loss on photographs of one to which everything is equally likely: log(N+1)."""
        return math.log(self.head.out_channels)

    def logits(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Batches of images [N,3,H,W] in [-1,1] -> logits [N,num_classes + 1,H,W] of the classes, then of fake.

        Each layer's weight is normalized once for all batches.
        """
        xs, encoded = list(images), []
        for block in self.down:
            xs = block(xs)
            encoded.append(xs)
        for i, block in enumerate(self.up):
            if i:
                xs = [torch.cat(pair, 1) for pair in zip(xs, encoded[-1 - i], strict=True)]
            xs = block(xs)
        return [self.head(x) for x in xs]

    def forward(self, semantic: SemanticMap, fake: Tensor, real: Tensor, classes: BatchClasses) -> Verdict:
        """Fakes and photos [N,3,H,W] of N semantic maps -> cross entropies of both sides, and the LabelMix term.

        d_real: of photographs against their maps, balanced over the classes; d_fake: of fakes against "fake"; d_mix:
        mean square of the difference between the logits of mixed images and the mixed logits. The generator's loss is
        the balanced cross entropy of fakes against their maps.
        """
        of, real = semantic.classes(), real.to(fake.dtype)
        images, side = [fake, real], None
        if classes.from_photo is not None:
            side = mix_mask(of, classes.from_photo)
            images.append(torch.where(side, real, fake.detach()).contiguous(memory_format=torch.channels_last))
        of_fake, of_real, *of_mixed = map(at_least_fp32, self.logits(images))

        weights, known = class_weights(classes.shares, self.unknown)
        likely = F.log_softmax(of_fake, 1)
        judged = of != NO_CLASS if self.unknown is None else (of != NO_CLASS) & (of != self.unknown)
        terms = {
            "d_fake": (-likely[:, -1] * judged).mean() / known.clamp(min=torch.finfo(known.dtype).tiny),
            "d_real": balanced_cross_entropy(F.log_softmax(of_real, 1), of, weights),
        }
        loss = terms["d_fake"] + terms["d_real"]
        if side is not None:
            terms["d_mix"] = F.mse_loss(of_mixed[0], torch.where(side, of_real, of_fake))
            loss = loss + self.label_mix * terms["d_mix"]
        return Verdict(balanced_cross_entropy(likely, of, weights), loss, terms, None)

    def load_frozen(self, weights: Path | None) -> None:
        """Do nothing: all of it is trained."""


def class_weights(shares: Tensor, unknown: int | None) -> tuple[Tensor, Tensor]:
    """Return the weight of each class in the cross entropy, [num_classes], and the share of known pixels, a scalar.

    shares: [num_classes], each class's share of the pixels of the whole batch (see :class:`BatchClasses`).
    A weight is inverse to the share, as in the paper; like the published code, we divide it by the number of classes in
    the batch. The mean over all pixels is then the mean over these classes of their mean losses, whatever their number.
    Classes that are not in the batch and ``unknown`` have weight 0.
    """
    known = shares.clone()
    if unknown is not None:
        known[unknown] = 0
    present = known > 0
    return torch.where(present, 1 / (known * present.sum()), 0), known.sum()


def balanced_cross_entropy(log_probabilities: Tensor, of: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over all pixels of the weighted cross entropy.

    log_probabilities: [M,num_classes + 1,H,W]. of: int64 [M,H,W], the class of each pixel, or NO_CLASS, which adds
    nothing to the mean. weights: [num_classes].
    With weights of the shares in a whole batch, the mean over its micro-batches and processes is that of the batch.
    """
    weights = F.pad(weights, (0, 1)).to(log_probabilities.dtype)  # no pixel of a map is fake
    return F.nll_loss(log_probabilities, of, weights, ignore_index=NO_CLASS, reduction="sum") / of.numel()


def mix_mask(of: Tensor, from_photo: Tensor) -> Tensor:
    """Return where LabelMix shows the photo, bool [M,1,H,W]: within the borders of the classes it is to show.

    of: int64 [M,H,W], the class of each pixel; NO_CLASS follows class 0. from_photo: bool [M,num_classes].
    """
    sides = torch.gather(from_photo, 1, of.clamp(min=0).flatten(1))
    return sides.view(of.shape)[:, None]


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
