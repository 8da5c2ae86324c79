"""The architecture of generator and encoder: set in a recipe, stored in the card of a weights file."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator

from .schema import as_size, check_all

Latent = Literal["map", "noise", "encoder"]
Norm = Literal["batch", "instance"]
Upsampling = Literal["normal", "more", "most"]
Conditioning = Literal["spade", "concat"]

UPSAMPLES: dict[Upsampling, int] = {"normal": 5, "more": 6, "most": 7}


class Architecture(BaseModel):
    """Generator and image encoder of SPADE (CVPR 2019, section 3 and appendix A).

    size: training size (height, width); both multiples of ``stride``.
    ngf: base width; the widest feature map has 16·ngf channels.
    z_dim: length of the latent z (256 in the paper).
    hidden: channels of the hidden feature map in a SPADE layer, from which gamma and beta are computed (128 in the
        paper).
    kernel: kernel size of the convolutions in a SPADE layer.
    norm: the parameter-free normalization that SPADE modulates.
    upsampling: "normal", "more" or "most": 5, 6 or 7 doublings between the start grid and the image.
    spectral_norm: on the block convolutions and the encoder's while training (weights files hold it folded in).
    latent: where the first feature map comes from. "map": a convolution of the downsampled semantic map, so one
        image per mask (the published form). "noise": a linear layer on z ~ N(0, I) (section 3.2).
        "encoder": the same, with z from an image encoder (section 3.4).
    encoder_grid: the encoder's heads also see the photo averaged over a grid of this many squares per side. 0 is the
        published encoder, whose instance norms hide the photo's colours and lighting from z.
    conditioning: "spade"; or "concat": the semantic map is concatenated to the input once and the norms ignore it
        (the comparison of section 4.4).
    pixel_noise: add noise to the output of each block, weighted for each channel, for texture inside large regions. Not
        in the paper; StyleGAN's (Karras et al., CVPR 2019, section 3.2).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int] = (256, 256)
    ngf: int = Field(64, ge=1, le=512)
    z_dim: int = Field(256, ge=1, le=4096)
    hidden: int = Field(128, ge=1, le=1024)
    kernel: Literal[1, 3, 5] = 3
    norm: Norm = "batch"
    upsampling: Upsampling = "normal"
    spectral_norm: bool = True
    latent: Latent = "map"
    encoder_grid: Literal[0, 1, 2, 4, 8, 16] = 0
    conditioning: Conditioning = "spade"
    pixel_noise: bool = False

    @model_validator(mode="wrap")
    @classmethod
    def _size_fits_stride(cls, tree: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        return check_all(cls, tree, check, cls._contradictions)

    @classmethod
    def _contradictions(cls, tree: dict[str, Any]) -> list[str]:
        upsampling = tree.get("upsampling", cls.model_fields["upsampling"].default)
        size = as_size(tree.get("size"))
        if size is None or upsampling not in UPSAMPLES:
            return []
        stride = 1 << UPSAMPLES[upsampling]
        if all(s >= stride and s % stride == 0 for s in size):
            return []
        return [
            f"size {size[0]}x{size[1]}: height and width must be multiples of {stride}, "
            f"the stride of upsampling = {upsampling!r}"
        ]

    @property
    def num_upsamples(self) -> int:
        """Number of doublings between start grid and image."""
        return UPSAMPLES[self.upsampling]

    @property
    def widths(self) -> tuple[int, ...]:
        """Output channels of each block."""
        ngf = self.ngf
        widths = (16 * ngf, 16 * ngf, 16 * ngf, 8 * ngf, 4 * ngf, 2 * ngf, ngf)
        return (*widths, ngf // 2) if self.upsampling == "most" else widths

    @property
    def upsample_before(self) -> tuple[bool, ...]:
        """Whether a doubling comes before each block."""
        doublings = (False, True, self.upsampling != "normal", True, True, True, True)
        return (*doublings, True) if self.upsampling == "most" else doublings

    @property
    def stride(self) -> int:
        """Pixels of the image per cell of the start grid; height and width must be multiples of it."""
        return 1 << self.num_upsamples

    @property
    def start_grid(self) -> tuple[int, int]:
        """(height, width) of the first feature map at the training size."""
        return self.grid_for(self.size)

    def grid_for(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the first feature map for an image of ``size``."""
        return size[0] // self.stride, size[1] // self.stride

    @property
    def uses_z(self) -> bool:
        """Whether the image depends on a latent z."""
        return self.latent != "map"

    @property
    def has_encoder(self) -> bool:
        """Whether there is an image encoder."""
        return self.latent == "encoder"
