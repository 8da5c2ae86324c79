"""LPIPS against its definition in float64, and against figures of its authors' package."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shared
from lpips_weights import CONVOLUTIONS, random_alexnet, random_heads
from safetensors.torch import save_file
from torch.nn import functional as F

from spadecli.core.errors import BackendUnavailable, UserError
from spadecli.metrics.diversity import sample_distances
from spadecli.model import lpips
from spadecli.model.lpips import Lpips, open_lpips


def images(n: int, height: int = 48, width: int = 80) -> np.ndarray:
    """Pictures of soft blotches, [n,height,width,3]: every one has dark, light and coloured parts."""
    random = np.random.RandomState(0)
    coarse = torch.from_numpy(random.rand(n, 3, 6, 6))
    soft = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True).numpy()
    return (255 * soft).round().astype(np.uint8).transpose(0, 2, 3, 1)


def plain_lpips(state: dict[str, torch.Tensor], a: np.ndarray, b: np.ndarray) -> float:
    """Zhang et al., equation 1, for two pictures uint8 [H,W,3]."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])

    def unit_maps(picture: np.ndarray) -> list[np.ndarray]:
        in_range = picture / 255 * 2 - 1
        x = torch.from_numpy((in_range - shift) / scale).permute(2, 0, 1)[None]
        maps = []
        for place, (_, stride, padding, _, _) in CONVOLUTIONS.items():
            if place in (3, 6):
                x = F.max_pool2d(x, 3, 2)
            weight, bias = (state[f"features.{place}.{kind}"].double() for kind in ("weight", "bias"))
            x = F.conv2d(x, weight, bias, stride, padding).clamp(min=0)
            y = x[0].numpy()
            maps.append(y / (np.sqrt((y**2).sum(0, keepdims=True)) + 1e-10))
        return maps

    total = 0.0
    for i, (x, y) in enumerate(zip(unit_maps(a), unit_maps(b), strict=True)):
        head = state[f"lpips.lin{i}.weight"].double().numpy().reshape(-1, 1, 1)
        total += (head * (x - y) ** 2).sum(0).mean()
    return total


def distances(state: dict[str, torch.Tensor], pictures: np.ndarray, batch: int = 32) -> np.ndarray:
    network = Lpips(state)
    return sample_distances(network.maps, pictures, heads=network.heads, batch=batch)


STATE = {**random_alexnet(), **random_heads()}


def test_agrees_with_the_definition() -> None:
    pictures = images(4)
    expected = [plain_lpips(STATE, a, b) for a, b in itertools.combinations(pictures, 2)]
    np.testing.assert_allclose(distances(STATE, pictures), expected, rtol=1e-5)
    assert min(expected) > 0.01


def test_of_pictures_of_other_sizes() -> None:
    for size in ((31, 31), (64, 37)):
        a, b = images(2, *size)
        np.testing.assert_allclose(distances(STATE, np.stack([a, b])), [plain_lpips(STATE, a, b)], rtol=1e-5)


def test_equal_pictures_are_0_apart_and_their_order_does_not_matter() -> None:
    a, b = images(2)
    assert distances(STATE, np.stack([a, a])).tolist() == [0]
    there, back = (distances(STATE, np.stack(pair)) for pair in ([a, b], [b, a]))
    np.testing.assert_allclose(there, back, rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_does_not_depend_on_the_batch(batch: int) -> None:
    pictures, sizes = images(5), []
    network = Lpips(STATE)

    def maps(x: torch.Tensor) -> list[torch.Tensor]:
        sizes.append(len(x))
        return network.maps(x)

    found = sample_distances(maps, pictures, heads=network.heads, batch=batch)
    np.testing.assert_allclose(found, distances(STATE, pictures), rtol=1e-5)
    assert (max(sizes), sum(sizes)) == (batch, 5)


def test_the_authors_figures() -> None:
    """Those of the package lpips 0.1.4 for ``images(3)`` with the published weights, in float32."""
    network = open_lpips([shared("data", "weights", "lpips_alex.safetensors")])
    found = sample_distances(network.maps, images(3), heads=network.heads)
    np.testing.assert_allclose(found, [0.3638936, 0.3846908, 0.2651365], rtol=1e-5)


def test_small_pictures_are_refused() -> None:
    with pytest.raises(UserError, match=r"31x31 pixels or more \(found 30x80\)"):
        distances(STATE, images(2, 30, 80))


def test_any_of_the_published_names_will_do(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "one.safetensors")
    torch.save({**random_alexnet(), "classifier.1.weight": torch.zeros(1)}, tmp_path / "alexnet.pth")
    torch.save(random_heads("lin{}.model.1.weight"), tmp_path / "alex.pth")
    expected = distances(STATE, images(2))
    for files in (["one.safetensors"], ["alexnet.pth", "alex.pth"]):
        network = open_lpips([tmp_path / name for name in files])
        assert sample_distances(network.maps, images(2), heads=network.heads) == expected


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (random_alexnet(), r"not LPIPS with AlexNet: missing or of the wrong shape: lpips\.lin0\.weight, lpips\.lin1"),
        (
            random_heads(),
            r"not LPIPS with AlexNet: missing or of the wrong shape: features\.0\.weight, features\.0\.bias",
        ),
        (STATE | {"lpips.lin4.weight": torch.zeros(1, 512, 1, 1)}, r"wrong shape: lpips\.lin4\.weight$"),
        (STATE | {"features.3.weight": torch.zeros(192, 64, 3, 3)}, r"wrong shape: features\.3\.weight$"),
        ([torch.zeros(1)], "not a state dict"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, state: object, problem: str) -> None:
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth") as e:
        open_lpips([tmp_path / "other.pth"])
    e.match(problem.replace("$", r"(\n|$)"))


@pytest.mark.parametrize("name", ["damaged.safetensors", "damaged.pth"])
def test_a_damaged_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"no such file \(--lpips\)"):
        open_lpips([tmp_path / name])
    (tmp_path / name).write_bytes(b"PK something else")
    with pytest.raises(UserError, match=f"{name}: not a weights file that can be read"):
        open_lpips([tmp_path / name])


def test_alexnet_is_fetched_once_and_the_heads_are_the_package_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    torch.save(random_alexnet(), tmp_path / "net.pth")
    sha256 = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    published = (tmp_path / "net.pth").rename(tmp_path / f"alexnet-owt-{sha256[:8]}.pth")
    monkeypatch.setattr(lpips, "ALEXNET_URL", published.as_uri())
    package = tmp_path / "site" / "lpips"
    (package / "weights" / "v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('nothing imports it')")
    torch.save(random_heads("lin{}.model.1.weight"), package / "weights" / "v0.1" / "alex.pth")
    monkeypatch.setattr(lpips, "PACKAGE", "no_such_package")
    assert lpips.installed_files()[1] is None
    monkeypatch.setattr(lpips, "PACKAGE", "lpips")
    monkeypatch.syspath_prepend(tmp_path / "site")
    alexnet, heads = lpips.installed_files()
    assert not alexnet.is_file()
    lpips.fetch_alexnet()
    published.unlink()
    lpips.fetch_alexnet()
    network = open_lpips([alexnet, heads])
    assert sample_distances(network.maps, images(2), heads=network.heads) == distances(STATE, images(2))
    alexnet.unlink()
    with pytest.raises(BackendUnavailable, match="could not be fetched") as e:
        lpips.fetch_alexnet()
    assert f"save it as {alexnet}" in e.value.hint
