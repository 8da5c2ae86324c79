"""Every form in which SPADE is computed is the plain form's function, on the same cases: the layer and the generator.

A new form is one entry of LAYER_FORMS or FORMS. The plain form in float64 is what all are compared with; it is itself
compared with equation 1 written out. The file is long since all forms stand side by side, beside the faults that
each of them must show.
"""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from parity_cases import BLOCK, CASES, LAYER_CASES, Case, Network
from torch import Tensor, nn
from torch.nn import functional as F

from spadecli import open_backend
from spadecli.backends import onnx_export
from spadecli.backends.artifact import Precision
from spadecli.backends.emulate_half import rounded_in_float32
from spadecli.backends.graph import Graph
from spadecli.core.errors import UserError
from spadecli.cpu import convolution
from spadecli.cpu import generator as fast_generator
from spadecli.cpu.convolution import ComputeSettings, ModulatedConv
from spadecli.cpu.generator import FastGenerator, why_not_fast
from spadecli.kernels import native
from spadecli.model import semantic, spade, tiling
from spadecli.model.generator import LEAK
from spadecli.model.semantic import SemanticMap
from spadecli.model.spade import SPADE
from spadecli.model.tiling import find_tiles, why_not_tiled
from spadecli.weights import folding
from spadecli.weights.folding import can_fold, folded_modulation
from spadecli.windows import find, modulate
from spadecli.windows.collate import BatchWindows, level_sizes
from spadecli.windows.find import find_windows, label_codes
from spadecli.windows.tables import ModulationTable

CPU = torch.device("cpu")
BUILDS = "base", "v3", "v4"


def largest(difference: Tensor) -> float:
    return difference.abs().max().item()


def mean_square(difference: Tensor) -> float:
    """Its root. What half precision rounds has no largest value worth a bound."""
    return difference.square().mean().sqrt().item()


class Form(NamedTuple):
    """run: network and case to what the form computes. most: its difference from the plain form in float64, by
    ``measure``; half precision differs by ``least``, or it was not used. needs: what open_backend is asked for to
    compute the same."""

    run: Callable[[Network, Case], Tensor]
    most: float
    needs: tuple[str, ...] = ()
    least: float = 0
    measure: Callable[[Tensor], float] = largest


def half(run: Callable[[Network, Case], Tensor], most: float, needs: tuple[str, ...] = ()) -> Form:
    return Form(run, most, needs, most / 20, mean_square)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    @cache
    def make(*key):
        case = next(c for c in [*LAYER_CASES, *CASES] if c.network == key)
        return Network(tmp_path_factory.mktemp("weights"), case)

    return lambda case: make(*case.network)


@contextmanager
def build_of(name: str) -> Iterator[None]:
    """The kernels of one build, "0" for none. The test is skipped if this machine has no such build."""
    if name not in ("0", *native.builds()):
        pytest.skip(f"this CPU lacks the instructions of the kernels' build {name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPADE_NATIVE", name)
        native._library.cache_clear()
        try:
            if name not in ("0", native.build()):
                pytest.skip(f"the kernels' build {name} was not compiled")
            yield
        finally:
            native._library.cache_clear()


# labels, as the forms take them


def by_windows(case: Case) -> SemanticMap:
    return case.semantic("fast")


def by_windows_of_the_loader(case: Case) -> SemanticMap:
    """Found beforehand for every level, as the data loader does."""
    channels, edges = (None if a is None else torch.from_numpy(a.astype(np.uint8)) for a in case.labels)
    sizes = level_sizes(case.architecture.model_copy(update={"size": case.size}))
    found = BatchWindows.find(channels, edges, case.classes, sizes, case.architecture.kernel, every=True)
    return case.semantic("fast", windows=found.by_size())


def codes_of(case: Case) -> np.ndarray:
    channels, edges = case.labels
    return label_codes(channels, edges)


def feed_of(case: Case) -> dict[str, np.ndarray]:
    """What ONNX graphs take for the map."""
    channels, edges = case.labels
    return {"labels": channels.astype(np.uint8)} | ({} if edges is None else {"edges": edges})


# the layer


@torch.no_grad()
def layer_in_torch(
    network: Network, case: Case, dtype=torch.float32, labels: Callable[[Case], SemanticMap] = Case.semantic
) -> Tensor:
    bf16 = dtype == torch.bfloat16
    layer, x = copy.deepcopy(network.layer).to(torch.float32 if bf16 else dtype), case.x().to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return layer(x, labels(case), LEAK)


@torch.no_grad()
def layer_by_folding(network: Network, case: Case) -> Tensor:
    layer, x = copy.deepcopy(network.layer).double(), case.x()
    assert can_fold(layer) == (case.architecture.norm == "batch")
    weight, bias = folded_modulation(layer)
    hidden = F.relu(layer.shared(case.semantic().planes(x.shape[2:], x.dtype)))
    both = F.conv2d(hidden, weight, bias, padding=layer.gamma_beta.padding).repeat_interleave(case.samples, 0)
    scale, shift = both.chunk(2, 1)
    return F.leaky_relu((x if can_fold(layer) else layer.norm(x)) * scale + shift, LEAK)


@torch.no_grad()
def layer_by_tables(network: Network, case: Case, build: str) -> Tensor:
    """The table, and the modulation that a convolution does: here one that changes nothing."""
    layer, x = network.layer, case.x().float()
    identity = nn.Conv2d(x.shape[1], x.shape[1], 3, padding=1, bias=False)
    nn.init.dirac_(identity.weight)
    with build_of(build):
        settings = ComputeSettings(CPU, torch.float32, build != "0")
        table = ModulationTable(layer.shared, folded_modulation(layer), case.classes, CPU, settings.use_kernels)
        windows = find_windows(codes_of(case)[:, ::2, ::2], case.architecture.kernel, search_noise=False)
        x = x if can_fold(layer) else layer.norm(x)
        x = x.contiguous(memory_format=torch.channels_last)
        return ModulatedConv(identity, settings)(x, table(windows), windows.window_of_pixel, False, None)


def layer_in_onnx(network: Network, case: Case, rows: bool) -> Tensor:
    """The layer cut out of the generator's graph."""

    def make() -> bytes:
        model = graph_of(network, case, rows)
        name = f"blocks.{BLOCK}.norm_0"
        inputs = [*feed_of(case), f"upsample_{BLOCK}/Resize"]
        cut = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))
        return cut.extract_model(inputs, [f"{name}/LeakyRelu"]).SerializeToString()

    session = network.session(("layer", rows), make)
    x = {f"upsample_{BLOCK}/Resize": case.x().float().numpy()}
    return torch.from_numpy(session.run(None, feed_of(case) | x)[0])


# Twice what was measured on AVX2, where outputs are up to 20. The kernels' filtering rounds a little more.
LAYER_FORMS = {
    "plain in float32": Form(layer_in_torch, 4e-6),
    "plain in bf16": half(partial(layer_in_torch, dtype=torch.bfloat16), 0.012),
    "training windows in float64": Form(partial(layer_in_torch, dtype=torch.float64, labels=by_windows), 1e-14),
    "training windows in float32": Form(partial(layer_in_torch, labels=by_windows), 5e-6),
    "training windows of the loader": Form(partial(layer_in_torch, labels=by_windows_of_the_loader), 5e-6),
    "training windows in bf16": half(partial(layer_in_torch, dtype=torch.bfloat16, labels=by_windows), 0.013),
    "folded in float64": Form(layer_by_folding, 2e-14),
    "tables without kernels": Form(partial(layer_by_tables, build="0"), 4e-6),
    **{f"tables, kernels {b}": Form(partial(layer_by_tables, build=b), 8e-6) for b in BUILDS},
    "ONNX of planes": Form(partial(layer_in_onnx, rows=False), 4e-6),
    "ONNX of rows": Form(partial(layer_in_onnx, rows=True), 4e-6),
}


# the generator


@torch.inference_mode()
def in_torch(
    network: Network, case: Case, dtype=torch.float32, labels: Callable[[Case], SemanticMap] = Case.semantic
) -> Tensor:
    bf16, z = dtype == torch.bfloat16, network.z(case)
    generator = network.generator_in(torch.float32 if bf16 else dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return generator(labels(case), z if z is None or bf16 else z.to(dtype))


@torch.inference_mode()
def in_fast_form(network: Network, case: Case, build: str, dtype=torch.float32) -> Tensor:
    with build_of(build):
        fast = FastGenerator(copy.deepcopy(network.generator), case.classes, dtype=dtype)
        assert fast.settings.use_kernels == (build != "0" and dtype == torch.float32)
        return fast(codes_of(case), network.z(case))


def joined(case: Case, start: Tensor, compute: Callable[..., Tensor]) -> Tensor:
    whole = start.new_full((len(start), 3, *case.size), torch.nan)
    for tile in find_tiles(case.architecture, case.size, case.architecture.stride):
        tile.image.of(whole)[:] = compute(tile=tile)
    return whole


@torch.inference_mode()
def in_plain_tiles(network: Network, case: Case) -> Tensor:
    """In float64, where nothing hides a pixel too few."""
    generator, labels, z = network.generator_in(torch.float64), case.semantic(), network.z(case)
    start = generator.start(labels, z if z is None else z.double())
    return joined(case, start, partial(generator.from_start, start, labels))


@torch.inference_mode()
def in_fast_tiles(network: Network, case: Case, build: str) -> Tensor:
    with build_of(build):
        fast, codes = FastGenerator(copy.deepcopy(network.generator), case.classes), codes_of(case)
        start = fast.start(codes, network.z(case))
        return joined(case, start, partial(fast.from_start, start, codes))


def graph_of(
    network: Network, case: Case, rows: bool, precision: Precision = "fp32", for_engine: bool = False
) -> onnx.ModelProto:
    """rows: whether the first convolution of a map is looked up, which the number of classes decides by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "GATHER_FROM_CHANNELS", 0 if rows else 1 << 16)
        model = onnx_export.export(network.path, precision, case.at, for_engine).generator
    assert any(".rows_" in w.name for w in model.graph.initializer) == (
        rows and case.architecture.conditioning == "spade"
    )
    return rounded_in_float32(model)


def in_onnx(network: Network, case: Case, **options: Any) -> Tensor:
    key = case.at, *options.items()
    session = network.session(key, lambda: graph_of(network, case, **options).SerializeToString())
    z = network.z(case)
    return torch.from_numpy(session.run(None, feed_of(case) | ({} if z is None else {"z": z.numpy()}))[0])


# Twice what was measured on AVX2, of images in [-1,1]: random weights make 1e-5 of what float32 rounds.
FORMS = {
    "plain in float32": Form(in_torch, 3e-5),
    "plain in bf16": half(partial(in_torch, dtype=torch.bfloat16), 0.03),
    "training windows in float64": Form(partial(in_torch, dtype=torch.float64, labels=by_windows), 1e-13),
    "training windows in float32": Form(partial(in_torch, labels=by_windows), 3e-5),
    "training windows of the loader": Form(partial(in_torch, labels=by_windows_of_the_loader), 3e-5),
    "training windows in bf16": half(partial(in_torch, dtype=torch.bfloat16, labels=by_windows), 0.03),
    "fast without kernels": Form(partial(in_fast_form, build="0"), 4e-5, ("fast",)),
    **{f"fast, kernels {b}": Form(partial(in_fast_form, build=b), 5e-5, ("fast",)) for b in BUILDS},
    "fast in bf16": half(partial(in_fast_form, build="0", dtype=torch.bfloat16), 0.03, ("fast",)),
    "tiles of plain in float64": Form(in_plain_tiles, 1e-13, ("tiles",)),
    "tiles of fast without kernels": Form(partial(in_fast_tiles, build="0"), 4e-5, ("fast", "tiles")),
    "tiles of fast": Form(partial(in_fast_tiles, build=native.build()), 5e-5, ("fast", "tiles")),
    "ONNX of planes": Form(partial(in_onnx, rows=False), 2e-5),
    "ONNX of rows": Form(partial(in_onnx, rows=True), 2e-5),
    "ONNX for engines in fp16": half(partial(in_onnx, rows=False, precision="fp16", for_engine=True), 0.005),
    "ONNX for engines in bf16": half(partial(in_onnx, rows=False, precision="bf16", for_engine=True), 0.03),
}


@cache
def layer_expected(network: Network, case: Case) -> Tensor:
    return layer_in_torch(network, case, torch.float64)


@cache
def expected(network: Network, case: Case) -> Tensor:
    images = in_torch(network, case, torch.float64)
    assert images.std() > 0.05, "images without contrast show no difference"
    return images


def check(form: Form, found: Tensor, reference: Tensor) -> None:
    assert found.shape == reference.shape
    difference = form.measure(found.double() - reference)
    assert form.least <= difference <= form.most, f"difference {difference}, not {form.least} to {form.most}"


def why_not(form: Form, network: Network) -> str:
    """The code's own reason why a form cannot compute a network; empty where it can."""
    reason = why_not_tiled(network.card.architecture) if "tiles" in form.needs else ""
    return reason or (why_not_fast(network.generator) if "fast" in form.needs else "")


def by_hand(layer: SPADE, case: Case) -> np.ndarray:
    """Equation 1 in NumPy, one tap after the other: norm(x) · (1 + gamma) + beta, and the leaky ReLU."""
    (channels, edges), x = case.labels, case.x().numpy()
    height, width = x.shape[2:]
    rows = np.arange(height) * channels.shape[1] // height
    columns = np.arange(width) * channels.shape[2] // width
    maps = np.zeros((case.masks, case.classes + case.edges, height, width))
    for m, y, c in np.ndindex(case.masks, height, width):
        maps[m, channels[m, rows[y], columns[c]], y, c] = 1
        if edges is not None:
            maps[m, -1, y, c] = edges[m, rows[y], columns[c]]

    def convolved(of: np.ndarray, conv: nn.Conv2d) -> np.ndarray:
        weight = conv.weight.detach().double().numpy()
        reach = weight.shape[2] // 2
        padded = np.pad(of, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
        out = np.zeros((len(of), len(weight), height, width)) + conv.bias.detach().double().numpy()[:, None, None]
        for dy, dx in np.ndindex(weight.shape[2:]):
            part = padded[:, :, dy : dy + height, dx : dx + width]
            out += np.einsum("oi,miyx->moyx", weight[:, :, dy, dx], part, optimize=True)
        return out

    gamma, beta = np.split(convolved(np.maximum(convolved(maps, layer.shared), 0), layer.gamma_beta), 2, axis=1)
    if case.architecture.norm == "batch":
        mean, variance = (s.double().numpy()[:, None, None] for s in (layer.norm.running_mean, layer.norm.running_var))
    else:
        mean, variance = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    normed = (x - mean) / np.sqrt(variance + 1e-5)
    out = np.empty_like(x)
    for row in range(len(x)):
        mask = row // case.samples
        out[row] = normed[row] * (1 + gamma[mask]) + beta[mask]
    return np.where(out > 0, out, 0.2 * out)


@pytest.mark.parametrize("case", LAYER_CASES, ids=str)
def test_the_plain_layer_is_equation_1(networks, case):
    network = networks(case)
    np.testing.assert_allclose(layer_expected(network, case).numpy(), by_hand(network.layer, case), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", LAYER_FORMS)
@pytest.mark.parametrize("case", LAYER_CASES, ids=str)
def test_every_form_of_the_layer_is_the_plain_one(networks, case, name):
    network, form = networks(case), LAYER_FORMS[name]
    check(form, form.run(network, case), layer_expected(network, case))


def pairs() -> list[Any]:
    """Half precision on every architecture, but on one kind of maps: labels are integers in any precision."""
    return [
        pytest.param(case, name, id=f"{case}-{name}")
        for case, (name, form) in product(CASES, FORMS.items())
        if not form.least or case.maps == "blocks"
    ]


@pytest.mark.parametrize(("case", "name"), pairs())
def test_every_form_of_the_generator_is_the_plain_one(networks, case, name):
    network, form, arch = networks(case), FORMS[name], case.architecture
    reason = why_not(form, network)
    assert bool(reason) == (
        ("fast" in form.needs and arch.conditioning == "concat") or ("tiles" in form.needs and arch.norm == "instance")
    )
    if not reason:
        check(form, form.run(network, case), expected(network, case))
        return
    tile = arch.stride if "tiles" in form.needs else None
    with pytest.raises(UserError, match=re.escape(reason)):
        open_backend(network.path, "cpu", form="fast" if "fast" in form.needs else "plain", tile=tile)


# training


def with_gradients(
    network: Network, case: Case, dtype=torch.float64, labels: Callable[[Case], SemanticMap] = Case.semantic
) -> list[Tensor]:
    """The layer's output while it trains, and the gradients of its input and of all its parameters."""
    layer = copy.deepcopy(network.layer).to(dtype).train()
    x = case.x().to(dtype).requires_grad_()
    out = layer(x, labels(case), LEAK)
    out.backward(torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype))
    return [out.detach(), x.grad, *(p.grad for p in layer.parameters())]


# relative, the largest of output and gradients; twice what was measured
TRAINING = {
    "plain in float32": (partial(with_gradients, dtype=torch.float32), 3e-6),
    "windows in float64": (partial(with_gradients, labels=by_windows), 1e-14),
    "windows in float32": (partial(with_gradients, dtype=torch.float32, labels=by_windows), 2e-6),
    "windows of the loader": (partial(with_gradients, dtype=torch.float32, labels=by_windows_of_the_loader), 2e-6),
}
gradients_expected = cache(with_gradients)


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("case", LAYER_CASES, ids=str)
def test_gradients_of_the_layer_are_those_of_the_plain_one(networks, case, name):
    (run, most), network = TRAINING[name], networks(case)
    for found, of_plain in zip(run(network, case), gradients_expected(network, case), strict=True):
        assert (found.double() - of_plain).norm() <= most * of_plain.norm()


# the test of the test


def exchanged(folded):
    def mutated(layer):
        return tuple(torch.cat(t.chunk(2)[::-1]) for t in folded(layer))

    return mutated


def without_one(folded):
    def mutated(layer):
        layer = copy.deepcopy(layer)
        with torch.no_grad():
            layer.gamma_beta.bias.chunk(2)[0].sub_(1)
        return folded(layer)

    return mutated


def columns_exchanged(values_of):
    return lambda *args: torch.cat(values_of(*args).chunk(2, 1)[::-1], 1)


def shifted_map(find):
    return lambda codes, *rest, **options: find(np.roll(codes, 1, 2), *rest, **options)


def without_edges(find):
    return lambda codes, *rest, **options: find((codes - 1) // 2 * 2 + 1, *rest, **options)


def shifted_taps(windows_at):
    def mutated(*args):
        taps = windows_at(*args)
        return taps[1:] + taps[:1]

    return mutated


def outside_is_a_class(windows_at):
    return lambda *args: np.maximum(windows_at(*args), 1)


def outside_has_a_row(code_table):
    def mutated(*args):
        table = code_table(*args)
        return torch.cat([table[:, 1:2], table[:, 1:]], 1)

    return mutated


def padded_with_a_class(op):
    def mutated(graph, kind, *inputs, **options):
        more = [graph.integers([1], TensorProto.INT32, (1,))] if kind == "Pad" else []
        return op(graph, kind, *inputs, *more, **options)

    return mutated


def interleaved(masks_of: Callable[..., int]):
    """Rows sample by sample where they come mask by mask."""

    def mutation(compute):
        def mutated(x, *rest, **options):
            masks = masks_of(*rest, **options)
            order = torch.arange(len(x)).view(masks, -1).T.flatten()
            if len(x) == masks:
                return compute(x, *rest, **options)
            return compute(x[order].contiguous(memory_format=torch.channels_last), *rest, **options)[order.argsort()]

        return mutated

    return mutation


MUTATED = Case()
TORCH, KERNELS = "fast without kernels", "fast, kernels base"
WINDOWS, ROWS, PLANES = "training windows in float32", "ONNX of rows", "ONNX of planes"
# the fault, the form it is put into, and where
MUTATIONS = [
    ("gamma and beta exchanged", TORCH, fast_generator, "folded_modulation", exchanged),
    ("gamma and beta exchanged", KERNELS, fast_generator, "folded_modulation", exchanged),
    ("gamma and beta exchanged", PLANES, onnx_export, "folded_modulation", exchanged),
    ("gamma and beta exchanged", WINDOWS, spade, "gamma_beta_of_windows", columns_exchanged),
    ("1 + left out", TORCH, fast_generator, "folded_modulation", without_one),
    ("1 + left out", KERNELS, fast_generator, "folded_modulation", without_one),
    ("1 + left out", ROWS, onnx_export, "folded_modulation", without_one),
    ("another epsilon", TORCH, folding, "EPS", lambda eps: 10 * eps),
    ("the map shifted by a pixel", TORCH, fast_generator, "find_windows", shifted_map),
    ("the map shifted by a pixel", KERNELS, fast_generator, "find_windows", shifted_map),
    ("the map shifted by a pixel", WINDOWS, semantic, "find_windows", shifted_map),
    ("windows shifted by a tap", ROWS, onnx_export._GeneratorGraph, "_windows_at", shifted_taps),
    ("outside is a class", TORCH, find, "_patches_at", outside_is_a_class),
    ("outside is a class", WINDOWS, modulate, "_code_table", outside_has_a_row),
    ("outside is a class", ROWS, Graph, "op", padded_with_a_class),
    ("edges ignored", TORCH, fast_generator, "find_windows", without_edges),
    ("edges ignored", KERNELS, fast_generator, "find_windows", without_edges),
    ("edges ignored", WINDOWS, semantic, "find_windows", without_edges),
    ("samples in another order", TORCH, convolution, "modulate", interleaved(lambda rows, row, *_: len(row))),
    ("samples in another order", KERNELS, native, "shortcut", interleaved(lambda rows, row, *_: len(row))),
    ("a halo too narrow", "tiles of plain in float64", tiling, "CONVS", lambda convs: convs - 1),
]


@pytest.mark.parametrize(
    ("fault", "name", "where", "attribute", "mutation"), MUTATIONS, ids=[f"{m[0]}, {m[1]}" for m in MUTATIONS]
)
def test_a_fault_in_one_form_is_seen(networks, monkeypatch, fault, name, where, attribute, mutation):
    network, form = networks(MUTATED), FORMS[name]
    reference = expected(network, MUTATED)
    check(form, form.run(network, MUTATED), reference)
    monkeypatch.setattr(where, attribute, mutation(getattr(where, attribute)))
    network.forget_sessions()
    try:
        found = form.run(network, MUTATED)
    finally:
        network.forget_sessions()
    with pytest.raises(AssertionError, match="difference"):
        check(form, found, reference)
