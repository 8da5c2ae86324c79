import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from spadecli.backends import open_backend
from spadecli.cli.app import app
from spadecli.commands.examples.command import ExamplesOptions, examples, render_example, sheet_image
from spadecli.core.architecture import Architecture
from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.core.recipe_files import (
    find_recipe,
    load_recipe,
    resolve_weights,
    shipped_examples,
    shipped_sets,
    shipped_weights,
)
from spadecli.data.masks import read_mask
from spadecli.model.generator import Generator
from spadecli.model.init import initialize
from spadecli.weights.card import Card
from spadecli.weights.file import folded_state_dict, save_weights

FACADES = load_recipe(find_recipe("facades")).recipe.labels
EXAMPLES = shipped_examples()
GOLDEN = {
    "apartments": "1773f9cce4565c9045c37acea4ee061e27c5b5b581b44ee715abdc1ba8a05237",
    "corner": "b837dcaf9c93ecfb07126946c8c2c49a4302685bab8d847c962c71358272f027",
    "gables": "f13afd1b8fa44d251913ffd9cc1980ac82dd6691bdc5ca47fe491bc237c32772",
    "haussmann": "9c713cb6ae5720f13269a0274b634d4152cbebee1c55ccdad1932012eb917ed9",
    "loft": "96686c7894d93a69e72e3c85dfd269d66b35a5ccf76ca7c7dcfe0ceb7a4e3310",
    "office": "15847dd2aa6c10b62c86ed82f4c56d364a16b2e1d8699b64ad05d35a4d47459e",
    "palazzo": "94ea7e09508a8c9cecaf36984aa6f022523f8a7b03cee407fa0146d3c112ad9d",
    "terrace": "7e47736299b2e73b4152f6227e1da6632e606039226ea6797c23e25c6ed494f0",
}


def small_weights(path: Path, labels: LabelSpace = FACADES) -> Path:
    architecture = Architecture(size=(64, 64), ngf=2, hidden=4, z_dim=8, latent="noise", norm="instance")
    generator = Generator(architecture, labels.semantic_channels)
    initialize(generator, seed=0)
    save_weights(path, Card(name="small", architecture=architecture, labels=labels), folded_state_dict(generator), None)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return small_weights(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.mark.parametrize("name", GOLDEN)
def test_masks_are_golden(name):
    """Renders, photo.jpg and figures in the README are of these very masks."""
    mask = read_mask(EXAMPLES[name], FACADES)
    assert hashlib.sha256(mask.tobytes()).hexdigest() == GOLDEN[name]


def test_the_masks_show_all_classes_and_differ_in_kind():
    masks = [read_mask(path, FACADES) for path in EXAMPLES.values()]
    assert len(masks) == len(GOLDEN)
    assert sorted({int(v) for m in masks for v in np.unique(m)}) == list(range(12))
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert (a != b).mean() > 0.2


def test_masks_and_photo_are_written(tmp_path, weights):
    result = examples(ExamplesOptions(FACADES.name, tmp_path, weights))
    assert {p.stem for p in (tmp_path / "masks").iterdir()} == set(EXAMPLES)
    assert sorted(result.written) == sorted([tmp_path / "photo.jpg", *(tmp_path / "masks").iterdir()])
    for name, path in EXAMPLES.items():
        written = tmp_path / "masks" / f"{name}.png"
        assert written.read_bytes() == path.read_bytes()
        image = Image.open(written)
        assert image.mode == "P"
        assert image.convert("RGB").getpixel((0, 255)) == FACADES.classes[np.array(image)[255, 0]].color
    photo = Image.open(tmp_path / "photo.jpg")
    assert (photo.format, photo.mode, photo.size) == ("JPEG", "RGB", (256, 256))


def test_existing_files_are_kept_unless_overwrite_is_given(tmp_path, weights):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"mine")
    result = examples(ExamplesOptions(FACADES.name, tmp_path, weights))
    assert result.kept == (photo,)
    assert photo.read_bytes() == b"mine"
    again = examples(ExamplesOptions(FACADES.name, tmp_path, weights, overwrite=True))
    assert again.kept == ()
    assert photo.read_bytes() != b"mine"


def test_the_sheet_shows_every_mask_beside_its_first_renders(tmp_path, weights):
    examples(ExamplesOptions(FACADES.name, tmp_path, weights, sheet=tmp_path / "sheet.jpg"))
    assert Image.open(tmp_path / "sheet.jpg").size == (8 * 164 - 4, 4 * 164 - 4)
    with open_backend(weights) as backend:
        sheet = sheet_image(backend)
        samples = render_example(backend, EXAMPLES[sorted(EXAMPLES)[0]], 3)
    assert sheet.getpixel((5, 155)) == FACADES.classes[0].color, "a mask comes first"
    assert (samples[0] != samples[1]).any()
    for i, sample in enumerate(samples):
        tile = Image.fromarray(sample).resize((160, 160), Image.Resampling.LANCZOS)
        assert sheet.crop(((i + 1) * 164, 0, (i + 1) * 164 + 160, 160)).tobytes() == tile.tobytes()


def test_the_sheet_is_what_its_suffix_says(tmp_path, weights):
    examples(ExamplesOptions(FACADES.name, tmp_path, weights, sheet=tmp_path / "sheet.png"))
    assert Image.open(tmp_path / "sheet.png").format == "PNG"
    with pytest.raises(UserError, match=r"s\.txt: expected a name that ends in \.jpg"):
        examples(ExamplesOptions(FACADES.name, tmp_path / "new", weights, sheet=tmp_path / "s.txt"))
    assert not (tmp_path / "new").exists()


def test_dry_run_writes_nothing(tmp_path, weights):
    result = examples(ExamplesOptions(FACADES.name, tmp_path / "new", weights, dry_run=True))
    assert len(result.written) == len(EXAMPLES) + 1
    assert not (tmp_path / "new").exists()


def test_weights_of_another_label_space_are_refused_before_anything_is_written(tmp_path):
    other = small_weights(tmp_path / "roads.safetensors", LabelSpace(name="roads", classes=("road", "sky")))
    with pytest.raises(UserError, match=r"roads\.safetensors: its classes are road, sky"):
        examples(ExamplesOptions(FACADES.name, tmp_path / "new", other))
    assert not (tmp_path / "new").exists()


def test_command_line(tmp_path, weights):
    done = CliRunner().invoke(app, ["examples", "-o", str(tmp_path), "-w", str(weights), "--json"])
    assert done.exit_code == 0
    assert len(json.loads(done.stdout)["written"]) == len(EXAMPLES) + 1
    again = CliRunner().invoke(app, ["examples", "-o", str(tmp_path), "-w", str(weights)])
    assert f"kept {tmp_path / 'photo.jpg'}; --overwrite writes it again" in again.stdout


@pytest.mark.parametrize("name", shipped_sets())
def test_each_set_has_masks_and_weights_that_render_them_if_they_are_shipped(tmp_path, name):
    result = examples(ExamplesOptions(name, tmp_path))
    masks = sorted((tmp_path / "masks").iterdir())
    has_weights = shipped_weights(name).is_file()
    assert len(result.written) == len(masks) + has_weights == 8 + has_weights
    labels = load_recipe(find_recipe(name)).recipe.labels
    shown = {int(v) for path in masks for v in np.unique(read_mask(path, labels))}
    assert len(shown) >= 8
    if not has_weights:
        with pytest.raises(UserError, match=f"no weights are shipped for {name}"):
            examples(ExamplesOptions(name, tmp_path, sheet=tmp_path / "sheet.jpg"))
        return
    with open_backend(name, "cpu") as backend:
        assert backend.card.name == name
        image = np.asarray(Image.open(tmp_path / "photo.jpg"), np.float32)
        assert image.std() > 20


def test_an_unknown_set_is_refused_with_the_names_of_the_others(tmp_path):
    with pytest.raises(UserError, match="no example masks are called 'mars'") as e:
        examples(ExamplesOptions("mars", tmp_path))
    assert " and ".join(shipped_sets()) in e.value.hint


def test_weights_go_by_name_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_weights(None) == resolve_weights(Path("facades")) == shipped_weights("facades")
    assert resolve_weights(Path("mars")) == Path("mars")
    assert resolve_weights(Path("x/facades")) == Path("x/facades")
    (tmp_path / "facades").mkdir()
    assert resolve_weights(Path("facades")) == shipped_weights("facades")
    (tmp_path / "facades" / "run.json").touch()
    assert resolve_weights(Path("facades")) == Path("facades")
