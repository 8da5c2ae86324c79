"""Writing an ONNX graph node by node, with full control of its names, types and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from .artifact import Precision

ONNX_TYPES: dict[Precision, int] = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}
TORCH_TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# bf16 convolutions need 22; older runtimes read 18
OPSETS: dict[Precision, int] = {"fp32": 18, "fp16": 18, "bf16": 22}
IR_VERSION = 10


class Graph:
    """A graph under construction. Values are identified by name; each float value has the precision of its node."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._counts: dict[str, int] = {}

    def input(self, name: str, onnx_type: int, shape: Sequence[int | str]) -> str:
        """Declare an input and return its name; strings in the shape are dynamic sizes."""
        self._inputs.append(helper.make_tensor_value_info(name, onnx_type, shape))
        return name

    def output(self, value: str, name: str, onnx_type: int, shape: Sequence[int | str]) -> None:
        """Declare ``value`` as an output under its public name."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, onnx_type, shape))

    def op(self, kind: str, *inputs: str, scope: str = "", outputs: int = 1, **attributes: Any) -> str:
        """Add a node; return the name of its (first) output."""
        return self.ops(kind, *inputs, scope=scope, outputs=outputs, **attributes)[0]

    def ops(self, kind: str, *inputs: str, scope: str = "", outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node; return the names of its outputs."""
        base = f"{scope}/{kind}" if scope else kind
        number = self._counts.get(base, 0)
        self._counts[base] = number + 1
        name = f"{base}_{number}" if number else base
        names = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names

    def cast(self, value: str, precision: Precision, scope: str = "") -> str:
        """Cast ``value`` to another precision."""
        return self.op("Cast", value, scope=scope or precision, to=ONNX_TYPES[precision])

    def weight(self, name: str, tensor: Tensor, precision: Precision | None = None) -> str:
        """Add a constant float tensor, stored in ``precision`` (default: the graph's)."""
        precision = precision or self.precision
        values = tensor.detach().cpu().to(TORCH_TYPES[precision]).contiguous()
        raw = values.reshape(-1).view(torch.uint8).numpy().tobytes()
        self._weights[name] = helper.make_tensor(name, ONNX_TYPES[precision], list(values.shape), raw, raw=True)
        return name

    def integers(self, values: Sequence[int], onnx_type: int = TensorProto.INT64, shape: Sequence[int] = ()) -> str:
        """Add an integer constant, shared by all uses of the same values. ``shape``: default one dimension."""
        dims = list(shape) or [len(values)]
        name = f"int{onnx_type}_{'x'.join(map(str, dims))}_{'_'.join(map(str, values))}"
        if len(name) > 80:
            name = f"int{onnx_type}_{len(self._weights)}"
        if name not in self._weights:
            self._weights[name] = helper.make_tensor(name, onnx_type, dims, list(values))
        return name

    def model(self, name: str, producer: str, version: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the finished model, checked by onnx."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._weights.values()))
        model = helper.make_model(
            graph,
            producer_name=producer,
            producer_version=version,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSETS[self.precision])],
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model
