"""Emulation of a half-precision graph on a CPU: computed in float32, with every value rounded as in the graph.

ONNX Runtime has no bf16 kernels on the CPU, and computes chains of fp16 nodes in float32 without rounding in between,
which makes them look too accurate. Like a GPU, the emulation sums in float32 inside a layer and rounds its result.
"""

from __future__ import annotations

import onnx
import torch
from onnx import TensorProto, helper

LOW: dict[int, torch.dtype] = {
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
}


def rounded_in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the function of ``model`` in float32 with explicit rounding; a float32 graph is not changed."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if not (low := next((types[name] for name in node.output if types.get(name) in LOW), None)):
            nodes.append(node)
            continue
        computed = onnx.NodeProto()
        computed.CopyFrom(node)
        if node.op_type == "Cast":
            computed.attribute[0].i = TensorProto.FLOAT
        for i, name in enumerate(node.output):
            computed.output[i] = f"{name}/exact"
        nodes.append(computed)
        for name in node.output:
            nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/low"], to=low))
            nodes.append(helper.make_node("Cast", [f"{name}/low"], [name], to=TensorProto.FLOAT))
    weights = [_widened(w) if w.data_type in LOW else w for w in graph.initializer]
    wide = helper.make_model(
        helper.make_graph(nodes, graph.name, graph.input, graph.output, weights),
        ir_version=model.ir_version,
        opset_imports=model.opset_import,
    )
    helper.set_model_props(wide, {p.key: p.value for p in model.metadata_props})
    onnx.checker.check_model(wide, full_check=True)
    return wide


def _widened(weight: onnx.TensorProto) -> onnx.TensorProto:
    values = torch.frombuffer(bytearray(weight.raw_data), dtype=LOW[weight.data_type]).float()
    return helper.make_tensor(weight.name, TensorProto.FLOAT, weight.dims, values.numpy().tobytes(), raw=True)
