"""Import of NVlabs checkpoints: the reference's own outputs, and every mistake named."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shared

import spadecli
from spadecli.commands.convert.command import ConvertOptions, convert
from spadecli.core.errors import UserError
from spadecli.data.edges import instance_edges
from spadecli.weights.file import read_card

# what `spade convert` is told about the two parity checkpoints, as their options.json has it
FLAGS = {
    "coco": {"num_classes": 40, "dont_care": True, "instance": True, "crop_size": 64},
    "facades_vae": {"num_classes": 13, "dont_care": False, "instance": False, "crop_size": 64},
}


def parity(name: str) -> Path:
    return shared("data", "nvlabs_parity", name)


def converted(name: str, folder: Path, **more) -> Path:
    encoder = parity(name) / "latest_net_E.pth"
    options = ConvertOptions(
        parity(name) / "latest_net_G.pth",
        folder / f"{name}.safetensors",
        encoder if encoder.exists() else None,
        **{**FLAGS[name], **more},
    )
    return convert(options).path


# the reference's outputs are float32 of an AVX-512 machine; with AVX2 convolutions round otherwise, to 1.2e-5
@pytest.mark.parametrize(("form", "bound"), [("plain", 2e-5), ("auto", 5e-5)])
@pytest.mark.parametrize("name", FLAGS)
def test_images_and_style_codes_are_the_reference_s(name, form, bound, tmp_path):
    told = json.loads((parity(name) / "options.json").read_text())
    case = np.load(parity(name) / "case.npz")
    with spadecli.open_backend(converted(name, tmp_path), device="cpu", form=form) as backend:
        labels = case["label"].astype(np.uint8)
        edges = None if told["no_instance"] else instance_edges(case["instance"])
        images = backend.run(labels, edges, case.get("z"))
        assert np.abs(images - case["image"]).max() <= bound
        if told["use_vae"]:
            for ours, theirs in zip(backend.encode(case["photo"]), (case["mu"], case["logvar"]), strict=True):
                assert np.abs(ours - theirs).max() <= 1e-5


def test_half_precision_stays_close_and_halves_the_file(tmp_path):
    name = "facades_vae"
    case = np.load(parity(name) / "case.npz")
    full, half = converted(name, tmp_path), converted(name, tmp_path / "half", half=True)
    assert half.stat().st_size < 0.55 * full.stat().st_size
    with spadecli.open_backend(half, device="cpu") as backend:
        images = backend.run(case["label"].astype(np.uint8), None, case["z"])
    error = np.square(images - case["image"]).mean(axis=(1, 2, 3)).max()
    assert 10 * np.log10(4 / error) > 40


def test_what_the_keys_tell_is_read_off_them(tmp_path):
    arch = read_card(converted("facades_vae", tmp_path)).architecture
    assert (arch.ngf, arch.z_dim, arch.hidden, arch.latent, arch.size) == (2, 256, 128, "encoder", (64, 64))
    without = convert(
        ConvertOptions(parity("facades_vae") / "latest_net_G.pth", tmp_path / "n.safetensors", **FLAGS["facades_vae"])
    )
    assert without.card.architecture.latent == "noise"


def damaged(tmp_path: Path, change) -> Path:
    state = torch.load(parity("facades_vae") / "latest_net_G.pth", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "bad_net_G.pth")
    return tmp_path / "bad_net_G.pth"


def test_missing_left_over_and_misshapen_keys_are_all_named(tmp_path):
    def change(state):
        del state["up_1.conv_0.weight_u"]
        state["extra.weight"] = torch.zeros(1)
        state["conv_img.bias"] = torch.zeros(4)
        state["G_middle_0.conv_1.weight_v"] = torch.ones(7)

    path = damaged(tmp_path, change)
    with pytest.raises(UserError) as e:
        convert(ConvertOptions(path, **FLAGS["facades_vae"]))
    text = "\n".join(e.value.problems)
    assert "up_1.conv_0.weight_u: missing" in text
    assert "extra.weight: left over" in text
    assert "conv_img.bias: shape [4], expected [3]" in text
    assert "G_middle_0.conv_1.weight_v" in text
    assert not path.with_suffix(".safetensors").exists()


def test_options_that_do_not_fit_name_the_layers(tmp_path):
    with pytest.raises(UserError) as e:
        converted("facades_vae", tmp_path, num_classes=20)
    assert any("mlp_shared.0.weight: shape [128, 13, 3, 3], expected [128, 20, 3, 3]" in p for p in e.value.problems)
    with pytest.raises(UserError) as e:
        converted("facades_vae", tmp_path, norm="spectralspadesyncbatch5x5")
    assert any("mlp_gamma.weight" in p for p in e.value.problems)
    with pytest.raises(UserError) as e:
        converted("facades_vae", tmp_path, norm="spadesyncbatch3x3")
    assert any("conv_0.weight: missing" in p for p in e.value.problems)
    with pytest.raises(UserError, match="--norm"):
        converted("facades_vae", tmp_path, norm="batch")
    with pytest.raises(UserError, match="start grid"):
        converted("facades_vae", tmp_path, crop_size=96, aspect=1.0)


def test_a_file_that_wants_to_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    path = tmp_path / "latest_net_G.pth"
    path.write_bytes(pickle.dumps({"fc.weight": Evil()}))
    with pytest.raises(UserError, match="not a plain PyTorch state dict"):
        convert(ConvertOptions(path, preset="coco"))
    torch.save({"fc.weight": Evil()}, path)
    with pytest.raises(UserError, match="not a plain PyTorch state dict"):
        convert(ConvertOptions(path, preset="coco"))
    assert not (tmp_path / "owned").exists()


def test_broken_numbers_and_tensors_are_named(tmp_path):
    def change(state):
        state["conv_img.weight"] = state["conv_img.weight"].clone().fill_(float("nan"))
        state["up_0.conv_1.weight_u"] = torch.zeros_like(state["up_0.conv_1.weight_u"])
        state["up_1.conv_1.bias"] = state["up_1.conv_1.bias"].to_sparse()

    with pytest.raises(UserError) as e:
        convert(ConvertOptions(damaged(tmp_path, change), **FLAGS["facades_vae"]))
    names = {p.split(":")[0] for p in e.value.problems}
    assert names == {"conv_img.weight", "up_0.conv_1.weight_u", "up_1.conv_1.bias"}

    def shrink(state):
        state["fc.weight"] = torch.zeros(0, 256)

    with pytest.raises(UserError, match="not a generator of a usable size"):
        convert(ConvertOptions(damaged(tmp_path, shrink), **FLAGS["facades_vae"]))


def test_options_that_do_not_apply_are_refused(tmp_path):
    first = converted("facades_vae", tmp_path)
    with pytest.raises(UserError, match="--preset, --crop-size") as e:
        convert(ConvertOptions(first, tmp_path / "again.safetensors", preset="coco", crop_size=64))
    assert "weights_only" not in str(e.value)
    coco = parity("coco") / "latest_net_G.pth"
    encoder = parity("facades_vae") / "latest_net_E.pth"
    with pytest.raises(UserError, match="takes no encoder"):
        convert(ConvertOptions(coco, tmp_path / "x.safetensors", encoder, **FLAGS["coco"]))


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 torn"])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pth"):
        convert(ConvertOptions(path, preset="coco"))


def test_other_contents_are_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="not a state dict"):
        convert(ConvertOptions(tmp_path / "list.pth", preset="coco"))
    torch.save({"layer1.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not a SPADE generator"):
        convert(ConvertOptions(tmp_path / "other.pth", preset="coco"))


def test_the_number_of_classes_must_be_told(tmp_path):
    with pytest.raises(UserError) as e:
        convert(ConvertOptions(parity("coco") / "latest_net_G.pth", tmp_path / "x.safetensors"))
    assert "--num-classes" in e.value.hint


def test_an_existing_output_needs_overwrite(tmp_path):
    path = converted("facades_vae", tmp_path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists"):
        converted("facades_vae", tmp_path)
    assert path.read_bytes() == before
    assert converted("facades_vae", tmp_path, overwrite=True) == path


@pytest.mark.parametrize(("preset", "channels"), [("coco", 184), ("ade20k", 151), ("cityscapes", 36), ("facades", 13)])
def test_presets_have_the_published_channels(preset, channels, tmp_path):
    from spadecli.commands.convert.to_safetensors import _nvlabs_options

    options = _nvlabs_options(ConvertOptions(tmp_path / "x.pth", preset=preset))
    assert options.labels.semantic_channels == channels
    dont_care = {"coco": 182, "ade20k": 150, "cityscapes": -1, "facades": -1}[preset]
    assert options.labels.code_to_channel[255] == dont_care


@pytest.mark.parametrize(
    ("preset", "value", "name", "unknown"),
    [("coco", 181, "wood", 182), ("ade20k", 150, "flag", 0), ("cityscapes", 26, "car", None)],
)
def test_presets_have_the_names_of_the_recipes(preset, value, name, unknown, tmp_path):
    from spadecli.commands.convert.to_safetensors import _nvlabs_options

    labels = _nvlabs_options(ConvertOptions(tmp_path / "x.pth", preset=preset)).labels
    assert labels.classes[labels.code_to_channel[value]].name == name
    assert labels.unknown_channel == unknown
    plain = _nvlabs_options(ConvertOptions(tmp_path / "x.pth", preset=preset, num_classes=7)).labels
    assert plain.classes[3].name == "class 3"


def test_metrics_join_the_card(tmp_path):
    first = converted("facades_vae", tmp_path)
    (tmp_path / "held_out.json").write_text('{"distance": 1.5}')
    (tmp_path / "torn.json").write_text('{"distance"')
    output = tmp_path / "with.safetensors"
    with pytest.raises(UserError, match=r"torn\.json"):
        convert(ConvertOptions(first, output, metrics=(tmp_path / "torn.json",)))
    assert not output.exists()
    convert(ConvertOptions(first, output, metrics=(tmp_path / "held_out.json",)))
    assert read_card(output).metrics == {"held_out": {"distance": 1.5}}
    assert read_card(output).parent == read_card(first).parent
