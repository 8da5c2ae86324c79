"""What a stranger gets: source archive and wheel with everything in them, and a `spade` that works elsewhere."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

SOURCES = ("spadecli", "recipes", "weights", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


def build(folder: Path, kind: str, out: Path) -> Path:
    """Call the build backend in ``folder``; no download, no isolation."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Wheel, built from the source archive, built from a copy of the clone."""
    folder = tmp_path_factory.mktemp("build")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "clone" / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy2(ROOT / name, folder / "clone" / name)
    archive = build(folder / "clone", "sdist", folder)
    with tarfile.open(archive) as tar:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in the first releases of 3.11
        tar.extractall(folder / "unpacked", **safely)
    (unpacked,) = (folder / "unpacked").iterdir()
    return build(unpacked, "wheel", folder)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel in it; the dependencies are those of the running one."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next((venv / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python"]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    return venv


def spade(venv: Path, folder: Path, *args: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SPADE"))}
    command = [venv / "bin" / "spade", *args]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_code_recipes_weights_and_templates(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    code = {
        str(p.relative_to(ROOT)) for p in ROOT.glob("spadecli/**/*") if p.suffix in {".py", ".jinja", ".typed", ".cpp"}
    }
    shipped = {f"spadecli/shipped/{p.relative_to(ROOT)}" for p in ROOT.glob("recipes/*.toml")}
    kinds = ("*.safetensors", "*.h5", "examples/*/*.png")
    weights = (p for kind in kinds for p in ROOT.glob(f"weights/{kind}"))
    shipped |= {f"spadecli/shipped/{p.relative_to(ROOT)}" for p in weights}
    assert code | shipped <= held
    kernels = {n for n in held if re.fullmatch(r"spadecli/kernels/_kernels_\w+\.[^/]*(so|pyd)", n)}
    others = {n for n in held - code - shipped - kernels if ".dist-info/" not in n}
    assert others == set(), "the wheel holds files that are not the project's"
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in held)


@pytest.mark.slow
def test_an_installed_spade_finds_its_recipes_outside_the_clone(installed, tmp_path):
    assert spade(installed, tmp_path, "--version").startswith("spade ")
    code = "import spadecli.core.recipe_files as r; print(r.shipped_dir('recipes'), *r.shipped_recipes())"
    command = [installed / "bin" / "python", "-c", code]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert Path(found[0]).is_relative_to(installed)
    assert found[1:] == sorted(p.stem for p in ROOT.glob("recipes/*.toml"))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="no compiler")
def test_an_installed_spade_has_the_kernels_for_this_machine(installed, tmp_path):
    code = "import spadecli.kernels.native as n; print(n.__file__, n.build())"
    command = [installed / "bin" / "python", "-c", code]
    file, build = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert Path(file).is_relative_to(installed)
    assert build in {"v4", "v3", "base"}


@pytest.mark.slow
def test_without_a_compiler_the_build_goes_on_without_kernels(tmp_path):
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / name, tmp_path / "clone" / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, tmp_path / "clone" / name)
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    env = {**os.environ, "CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=tmp_path / "clone", capture_output=True, text=True, check=True, env=env)
    held = zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]).namelist()
    assert "spadecli/kernels/native.py" in held
    assert not any("_kernels_" in name for name in held)


@pytest.mark.slow
def test_an_installed_spade_writes_the_examples_with_its_own_weights(installed, tmp_path):
    spade(installed, tmp_path, "examples", "--quiet")
    assert len(list((tmp_path / "masks").glob("*.png"))) >= 6
    assert (tmp_path / "photo.jpg").stat().st_size > 1000


def test_constraints_pin_every_dependency_exactly():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^ ]*(; .+)?", line) for line in lines)
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {re.split("[>=<]", w)[0].lower() for w in wanted} <= pinned
    assert "torch==2.13.0" in lines
    assert "torch>=2.11" in project["dependencies"]


def test_make_lists_its_targets():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^make ([a-z-]+)", shown, re.M) == [
        "help",
        "setup",
        "demo",
        "test",
        "test-all",
        "test-gpu",
        "lint",
        "bench",
        "bench-gpu",
        "clean",
    ]
