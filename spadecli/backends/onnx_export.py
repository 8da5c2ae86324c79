"""Weights to ONNX: the generator and the encoder as graphs that run without this package.

The graph is written node by node rather than traced. torch.onnx.export(dynamo=True) supports both batch sizes as
dynamic axes, but only unnamed (a named one is silently fixed at the example's size); it is much slower, needs
onnxscript, and batch norm, types and names have to be repaired afterwards.

The file is long because it is one graph, read from top to bottom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn

from ..core.sizes import Size, format_size
from ..core.version import VERSION
from ..model.encoder import INPUT_SIZE, ImageEncoder
from ..model.generator import LEAK, Generator, SPADEBlock, resize_start
from ..model.layers import EPS
from ..model.pixel_noise import GAIN, PixelNoise, noise_of
from ..model.spade import SPADE, PlainNorm
from ..store.h5 import file_sha256
from ..weights.card import Card
from ..weights.file import folded_state_dict, load_folded, load_weights
from ..weights.folding import can_fold, folded_modulation
from .artifact import ExportInfo, Precision, path_from
from .graph import OPSETS, Graph

if TYPE_CHECKING:
    import onnx

# from this many semantic channels on, gathering rows is faster than convolving one-hot planes in ONNX Runtime on a CPU
GATHER_FROM_CHANNELS = 48
INT32 = TensorProto.INT32


@dataclass(frozen=True)
class Exported:
    """Graphs of one weights file. card: the weights' card, with the size of the graphs."""

    card: Card
    generator: onnx.ModelProto
    encoder: onnx.ModelProto | None
    record: ExportInfo


def export(
    weights: Path,
    precision: Precision = "fp32",
    size: Size | None = None,
    for_engine: bool = False,
    folder: Path | None = None,
) -> Exported:
    """Build the graphs of a .safetensors file at one precision and image size (height, width; default: the card's).

    for_engine: optimize for GPUs instead of ONNX Runtime on a CPU; the function is the same.
    folder: folder of the generator's file (default: that of the weights).
    Raises UserError if the file is damaged or the size does not fit.
    """
    card, generator, encoder = load_weights(weights)
    record = ExportInfo(
        kind="generator",
        weights=path_from(folder or weights.parent, weights),
        weights_sha256=file_sha256(weights),
        trained_size=format_size(card.architecture.size),
        size=format_size(size or card.architecture.size),
        precision=precision,
        opset=OPSETS[precision],
        created_by=f"spade {VERSION}",
    )
    if size is not None and size != card.architecture.size:
        card, generator = _at_size(card, generator, size)
    use_rows = precision == "fp32" and not for_engine and card.labels.semantic_channels >= GATHER_FROM_CHANNELS
    model = _GeneratorGraph(card, generator, precision, use_rows, for_engine).model(_metadata(card, record))
    if encoder is None:
        return Exported(card, model, None, record)
    of_encoder = _metadata(card, record.model_copy(update={"kind": "encoder"}))
    return Exported(card, model, encoder_graph(encoder, card, of_encoder, for_engine), record)


def _metadata(card: Card, record: ExportInfo) -> dict[str, str]:
    return {"spade_card": card.model_dump_json(), "spade_export": record.model_dump_json()}


def _at_size(card: Card, generator: Generator, size: Size) -> tuple[Card, Generator]:
    """Convert the generator to another image size by resizing the start grid inside the linear layer's weights."""
    from .base import check_size

    check_size(size, card)
    old = card.architecture
    new = old.model_copy(update={"size": size})
    resized = Generator(new, card.labels.semantic_channels, spectral=False)
    problems = load_folded(resized, resize_start(folded_state_dict(generator), old, new))
    assert not problems, problems
    return card.model_copy(update={"architecture": new}), resized.eval()


class _GeneratorGraph:
    """The generator as a graph.

    labels uint8 [masks,H,W], edges uint8 [masks,H,W] (if the label space has instances), z float32 [rows,Z] (if the
    network uses z) -> images float32 [rows,3,H,W]. rows = masks · samples; row m·S+s is sample s of mask m.
    use_rows: compute the first convolution of SPADE layers by gathering rows of its weights.
    """

    def __init__(
        self, card: Card, generator: Generator, precision: Precision, use_rows: bool, for_engine: bool = False
    ) -> None:
        self.card, self.generator, self.use_rows, self.for_engine = card, generator, use_rows, for_engine
        self.g = Graph(precision)
        self._planes: dict[tuple[Size, str], str] = {}
        self._codes: dict[tuple[Size, str], str] = {}

    def model(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        g, arch = self.g, self.card.architecture
        size = arch.size
        labels = g.input("labels", TensorProto.UINT8, ["masks", *size])
        # cast first: runtimes support uint8 inputs, but few operations on them
        codes = g.op("Cast", labels, to=INT32)
        table = np.maximum(self.card.labels.code_to_channel, 0).tolist()  # codes without a class are refused earlier
        self.channels = g.op("Gather", g.integers(table, INT32), codes, scope="channels")
        self.edges = None
        if self.card.labels.instances:
            self.edges = g.op("Cast", g.input("edges", TensorProto.UINT8, ["masks", *size]), to=INT32)
        self.masks = g.op("Slice", g.op("Shape", codes), g.integers([0]), g.integers([1]), scope="masks")
        rows = "rows" if arch.uses_z else "masks"
        x = self._start()
        grid = arch.start_grid
        for i, (block, upsample) in enumerate(zip(self.generator.blocks, self.generator.upsample_before, strict=True)):
            assert isinstance(block, SPADEBlock)
            if upsample:
                grid = grid[0] * 2, grid[1] * 2
                x = self._upsample(x, f"upsample_{i}")
            x = self._block(f"blocks.{i}", block, x, grid)
            if self.generator.noises:
                x = self._with_noise(i, x, grid)
        x = self._conv("conv_img", self.generator.conv_img, g.op("LeakyRelu", x, scope="conv_img", alpha=LEAK))
        if g.precision != "fp32":
            x = g.cast(x, "fp32", "images")
        g.output(g.op("Tanh", x), "images", TensorProto.FLOAT, [rows, 3, *size])
        return g.model("spade_generator", "spade", VERSION, metadata)

    # the semantic map

    def _at(self, value: str, grid: Size, name: str) -> str:
        """Sample an integer map at ``grid`` by nearest (floor)."""
        full = self.card.architecture.size
        if grid == full:
            return value
        if (grid, name) not in self._codes:
            g, steps = self.g, [full[0] // grid[0], full[1] // grid[1]]
            self._codes[grid, name] = g.op(
                "Slice", value, g.integers([0, 0]), g.integers(list(full)), g.integers([1, 2]), g.integers(steps),
                scope=f"{name}_{format_size(grid)}",
            )  # fmt: skip
        return self._codes[grid, name]

    def _planes_at(self, grid: Size) -> str:
        """Compute one-hot planes and the edge plane: [masks, channels, h, w]."""
        if (grid, "planes") not in self._planes:
            g, labels, scope = self.g, self.card.labels, f"planes_{format_size(grid)}"
            classes = g.integers(range(labels.num_classes), INT32, (1, labels.num_classes, 1, 1))
            channels = g.op("Unsqueeze", self._at(self.channels, grid, "channels"), g.integers([1]), scope=scope)
            planes = g.cast(g.op("Equal", channels, classes, scope=scope), g.precision, scope)
            if self.edges is not None:
                edges = g.op("Unsqueeze", self._at(self.edges, grid, "edges"), g.integers([1]), scope=scope)
                planes = g.op("Concat", planes, g.cast(edges, g.precision, scope), scope=scope, axis=1)
            self._planes[grid, "planes"] = planes
        return self._planes[grid, "planes"]

    def _windows_at(self, grid: Size, kernel: int) -> list[str]:
        """Return the label codes under each tap of a kernel, int32 [masks,h,w]: 0 outside, then as in label_codes."""
        g, scope, reach = self.g, f"codes_{format_size(grid)}", kernel // 2
        key = (grid, f"padded_{kernel}")
        if key not in self._codes:
            codes = self._at(self.channels, grid, "channels")
            if self.edges is not None:
                double = g.op("Add", codes, codes, scope=scope)
                codes = g.op("Add", double, self._at(self.edges, grid, "edges"), scope=scope)
            codes = g.op("Add", codes, g.integers([1], INT32), scope=scope)
            self._codes[key] = g.op("Pad", codes, g.integers([0, reach, reach] * 2), scope=scope)
        taps = []
        for y in range(kernel):
            for x in range(kernel):
                tap = (grid, f"tap_{kernel}_{y}_{x}")
                if tap not in self._codes:
                    ends = [y + grid[0], x + grid[1]]
                    self._codes[tap] = g.op(
                        "Slice", self._codes[key], g.integers([y, x]), g.integers(ends), g.integers([1, 2]),
                        scope=scope,
                    )  # fmt: skip
                taps.append(self._codes[tap])
        return taps

    # the network

    def _start(self) -> str:
        g, arch, fc = self.g, self.card.architecture, self.generator.fc
        grid = arch.start_grid
        if isinstance(fc, nn.Conv2d):
            return self._conv("fc", fc, self._planes_at(grid))
        assert isinstance(fc, nn.Linear)
        z = g.input("z", TensorProto.FLOAT, ["rows", arch.z_dim])
        if g.precision != "fp32":
            z = g.cast(z, g.precision, "fc")
        x = g.op(
            "Reshape", _linear(g, "fc", fc, z, self.for_engine), g.integers([-1, 16 * arch.ngf, *grid]), scope="fc"
        )
        if self.generator.concat_input:
            x = self._join_map(x, grid)
        return x

    def _join_map(self, x: str, grid: Size) -> str:
        """Concatenate x [rows,C,h,w] and the planes of each row's mask along the channels."""
        g, scope, planes = self.g, "concat", self._planes_at(grid)
        count = self.card.labels.semantic_channels
        rows = g.op("Slice", g.op("Shape", x, scope=scope), g.integers([0]), g.integers([1]), scope=scope)
        samples = g.op("Div", rows, self.masks, scope=scope)
        tail = g.integers([count, *grid])
        shape = g.op("Concat", self.masks, samples, tail, scope=scope, axis=0)
        planes = g.op("Expand", g.op("Unsqueeze", planes, g.integers([1]), scope=scope), shape, scope=scope)
        planes = g.op("Reshape", planes, g.integers([-1, count, *grid]), scope=scope)
        return g.op("Concat", x, planes, scope=scope, axis=1)

    def _upsample(self, x: str, scope: str) -> str:
        scales = self.g.weight("upsample.scales", torch.tensor([1.0, 1.0, 2.0, 2.0]), "fp32")
        return self.g.op(
            "Resize", x, "", scales, scope=scope, mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip

    def _block(self, name: str, block: SPADEBlock, x: str, grid: Size) -> str:
        g, shortcut = self.g, x
        if block.norm_s is not None and block.conv_s is not None:
            shortcut = self._conv(f"{name}.conv_s", block.conv_s, self._norm(f"{name}.norm_s", block.norm_s, x, grid))
        for i, (norm, conv) in enumerate(((block.norm_0, block.conv_0), (block.norm_1, block.conv_1))):
            x = self._norm(f"{name}.norm_{i}", norm, x, grid)
            x = self._conv(f"{name}.conv_{i}", conv, g.op("LeakyRelu", x, scope=f"{name}.norm_{i}", alpha=LEAK))
        return g.op("Add", shortcut, x, scope=name)

    def _with_noise(self, block: int, x: str, grid: Size) -> str:
        g, name = self.g, f"noises.{block}"
        noise = g.weight(f"{name}.noise", torch.from_numpy(noise_of(block, grid))[None, None])
        weight = g.weight(f"{name}.weight", GAIN * cast(PixelNoise, self.generator.noises[block]).weight[:, None, None])
        return g.op("Add", x, g.op("Mul", noise, weight, scope=name), scope=name)

    def _norm(self, name: str, layer: nn.Module, x: str, grid: Size) -> str:
        if isinstance(layer, SPADE):
            return self._spade(name, layer, x, grid)
        assert isinstance(layer, PlainNorm)
        norm = layer.norm
        if not isinstance(norm, nn.BatchNorm2d):
            return self._instance_norm(name, x, norm.weight, norm.bias)  # type: ignore[arg-type]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() * (norm.running_var.double() + EPS).rsqrt()
        shift = norm.bias.double() - norm.running_mean.double() * scale
        g = self.g
        scaled = g.op("Mul", x, g.weight(f"{name}.scale", scale.float().view(1, -1, 1, 1)), scope=name)
        return g.op("Add", scaled, g.weight(f"{name}.shift", shift.float().view(1, -1, 1, 1)), scope=name)

    def _instance_norm(self, name: str, x: str, scale: Tensor, shift: Tensor) -> str:
        """Add an instance norm, always in fp32: half precision cannot hold sums over whole images."""
        g = self.g
        if g.precision != "fp32":
            x = g.cast(x, "fp32", name)
        x = g.op(
            "InstanceNormalization", x, g.weight(f"{name}.scale", scale, "fp32"),
            g.weight(f"{name}.shift", shift, "fp32"), scope=name, epsilon=EPS,
        )  # fmt: skip
        return x if g.precision == "fp32" else g.cast(x, g.precision, name)

    def _spade(self, name: str, layer: SPADE, x: str, grid: Size) -> str:
        """Add a SPADE layer on x [rows,C,h,w], with scale and shift computed once per mask."""
        g = self.g
        weight, bias = folded_modulation(layer)
        channels = len(bias) // 2
        hidden = self._hidden(name, layer, grid)
        both = g.op(
            "Conv", hidden, g.weight(f"{name}.gamma_beta.weight", weight), g.weight(f"{name}.gamma_beta.bias", bias),
            scope=f"{name}.gamma_beta", pads=[weight.shape[2] // 2] * 4,
        )  # fmt: skip
        if not can_fold(layer):
            x = self._instance_norm(name, x, torch.ones(channels), torch.zeros(channels))
        if not self.card.architecture.uses_z:  # one row per mask
            scale, shift = g.ops("Split", both, g.integers([channels] * 2), scope=name, outputs=2, axis=1)
            return g.op("Add", g.op("Mul", x, scale, scope=name), shift, scope=name)
        both = g.op("Unsqueeze", both, g.integers([1]), scope=name)
        scale, shift = g.ops("Split", both, g.integers([channels] * 2), scope=name, outputs=2, axis=2)
        shape = g.op("Concat", self.masks, g.integers([-1, channels, *grid]), scope=name, axis=0)
        x = g.op("Reshape", x, shape, scope=name)
        x = g.op("Add", g.op("Mul", x, scale, scope=name), shift, scope=name)
        return g.op("Reshape", x, g.integers([-1, channels, *grid]), scope=name)

    def _hidden(self, name: str, layer: SPADE, grid: Size) -> str:
        """Compute the ReLU of the first convolution of the map: [masks,hidden,h,w]."""
        g, conv = self.g, layer.shared
        if not self.use_rows:
            return g.op("Relu", self._conv(f"{name}.shared", conv, self._planes_at(grid)), scope=f"{name}.shared")
        # a convolution of one-hot planes is a sum of one row of its weights per tap
        kernel, classes = conv.kernel_size[0], self.card.labels.num_classes
        taps = conv.weight.flatten(2).permute(2, 1, 0)  # [k²,channels,hidden]
        rows = taps[:, :classes]
        if taps.shape[1] > classes:
            rows = torch.stack([rows, rows + taps[:, classes:]], 2).flatten(1, 2)
        rows = nn.functional.pad(rows, (0, 0, 1, 0))
        scope = f"{name}.shared"
        parts = [
            g.op("Gather", g.weight(f"{scope}.rows_{i}", rows[i]), codes, scope=scope)
            for i, codes in enumerate(self._windows_at(grid, kernel))
        ]
        assert conv.bias is not None
        total = g.op("Sum", *parts, g.weight(f"{scope}.bias", conv.bias), scope=scope)
        return g.op("Transpose", g.op("Relu", total, scope=scope), scope=scope, perm=[0, 3, 1, 2])

    def _conv(self, name: str, conv: nn.Conv2d, x: str) -> str:
        inputs = [x, self.g.weight(f"{name}.weight", conv.weight)]
        if conv.bias is not None:
            inputs.append(self.g.weight(f"{name}.bias", conv.bias))
        return self.g.op("Conv", *inputs, scope=name, pads=[conv.kernel_size[0] // 2] * 4)


def encoder_graph(
    encoder: ImageEncoder, card: Card, metadata: Mapping[str, str], for_engine: bool = False
) -> onnx.ModelProto:
    """Build the encoder's graph: photos float32 [photos,3,height,width] of any size -> mu, logvar float32 [photos,Z].

    Always fp32: it runs once per style photo, and its code affects every image of that style.
    """
    g = Graph("fp32")
    x = g.input("photos", TensorProto.FLOAT, ["photos", 3, "height", "width"])
    # the same sampling as the encoder's own resize; a photo of 256x256 passes through unchanged
    batch = g.op("Slice", g.op("Shape", x), g.integers([0]), g.integers([2]), scope="resize")
    sizes = g.op("Concat", batch, g.integers(INPUT_SIZE), scope="resize", axis=0)
    x = g.op("Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
    resized = x
    for i, layer in enumerate(encoder.layers):
        assert isinstance(layer, nn.Conv2d)
        name = f"layers.{i}"
        x = g.op("Conv", x, g.weight(f"{name}.weight", layer.weight), scope=name, pads=[1] * 4, strides=[2, 2])
        ones, zeros = torch.ones(len(layer.weight)), torch.zeros(len(layer.weight))
        x = g.op(
            "InstanceNormalization", x, g.weight(f"{name}.scale", ones), g.weight(f"{name}.shift", zeros),
            scope=name, epsilon=EPS,
        )  # fmt: skip
        x = g.op("LeakyRelu", x, scope=name, alpha=LEAK)
    x = g.op("Flatten", x, axis=1)
    if encoder.grid:
        side = INPUT_SIZE[0] // encoder.grid
        squares = g.op("AveragePool", resized, scope="grid", kernel_shape=[side] * 2, strides=[side] * 2)
        squares = g.op("Flatten", squares, scope="grid", axis=1)
        squares = g.op("Mul", squares, g.weight("grid.gain", torch.tensor(encoder.gain)), scope="grid")
        x = g.op("Concat", x, squares, scope="grid", axis=1)
    for name, layer in (("mu", encoder.fc_mu), ("logvar", encoder.fc_logvar)):
        code = g.op("Flatten", _linear(g, f"fc_{name}", layer, x, for_engine), scope=f"fc_{name}", axis=1)
        g.output(code, name, TensorProto.FLOAT, ["photos", card.architecture.z_dim])
    return g.model("spade_encoder", "spade", VERSION, metadata)


def _linear(g: Graph, name: str, layer: nn.Linear, x: str, for_engine: bool) -> str:
    """Add a linear layer, [N,in] -> [N,out] or, for engines, [N,out,1,1].

    For engines it is a 1x1 convolution, as TensorRT for RTX has no fp32 matrix products on Turing.
    """
    if not for_engine:
        weight = g.weight(f"{name}.weight", layer.weight)
        return g.op("Gemm", x, weight, g.weight(f"{name}.bias", layer.bias), scope=name, transB=1)
    pixel = g.op("Unsqueeze", x, g.integers([2, 3]), scope=name)
    weight = g.weight(f"{name}.weight", layer.weight[:, :, None, None])
    return g.op("Conv", pixel, weight, g.weight(f"{name}.bias", layer.bias), scope=name)
