"""Graphs that spade writes: what they look like, in every precision, and without this package."""

import json

import onnx
import onnxruntime
import pytest
from conftest import ROOT
from onnx import TensorProto

import spadecli
from spadecli.backends.emulate_half import rounded_in_float32
from spadecli.backends.onnx_export import export
from spadecli.backends.verify import differences, fixed_inputs
from spadecli.weights.card import Card

WEIGHTS = ROOT / "weights" / "facades.safetensors"


@pytest.fixture(scope="module")
def case():
    with spadecli.open_backend(WEIGHTS, "cpu") as backend:
        labels, _, z = fixed_inputs(backend.card, 1, 2)
        return labels, z, backend.run(labels, None, z)


def shapes(values) -> dict:
    return {
        v.name: (v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in values
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_inputs_outputs_types_and_card(precision):
    exported = export(WEIGHTS, precision)
    model = exported.generator
    onnx.checker.check_model(model, full_check=True)
    assert shapes(model.graph.input) == {
        "labels": (TensorProto.UINT8, ["masks", 256, 256]),
        "z": (TensorProto.FLOAT, ["rows", 64]),
    }
    assert shapes(model.graph.output) == {"images": (TensorProto.FLOAT, ["rows", 3, 256, 256])}
    assert model.graph.node[0].op_type == "Cast"
    stored = {w.data_type for w in model.graph.initializer if w.name.endswith(".weight")}
    assert stored == {{"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]}
    assert not any(n.op_type == "BatchNormalization" for n in model.graph.node)
    props = {p.key: p.value for p in model.metadata_props}
    assert Card.model_validate_json(props["spade_card"]) == exported.card
    assert json.loads(props["spade_export"])["precision"] == precision
    assert shapes(exported.encoder.graph.input) == {"photos": (TensorProto.FLOAT, ["photos", 3, "height", "width"])}


def test_modulation_is_computed_once_for_each_mask(case):
    """With M masks and R rows only the network itself has R rows: convolutions of the map have M."""
    labels, z, _ = case
    model = export(WEIGHTS).generator
    watched = [n.output[0] for n in model.graph.node if n.op_type == "Conv" and "gamma_beta" in n.name]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in watched)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(watched, {"labels": labels, "z": z})
    assert len(found) == 19 - 1
    assert {len(f) for f in found} == {1}


def test_rounding_is_that_of_half_precision(case):
    """The stand-in rounds as torch does when it computes the same network in half precision."""
    labels, z, expected = case
    for precision, least, most in (("fp16", 60, 90), ("bf16", 45, 70)):
        model = rounded_in_float32(export(WEIGHTS, precision).generator)
        assert not [
            w.name for w in model.graph.initializer if w.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
        ]
        found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"labels": labels, "z": z})[0]
        assert least < differences(expected, found)[2] < most
