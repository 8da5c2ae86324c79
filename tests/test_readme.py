"""What the guides say is so: their commands run and print what is shown, their recipes, numbers and links are valid.

Console blocks are run in one folder that holds the example masks, in the order of the guides. In an expected output a
line "..." stands for any lines, "..." at the end of a line for the rest of it, and times and speeds may differ. A
command that ends in "# needs a GPU" is only checked for its options; a block with "# needs the data" is run where the
data sets are (slow).
"""

import contextlib
import difflib
import itertools
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, shared
from typer.testing import CliRunner

from spadecli.cli.app import COMMANDS, app
from spadecli.core.recipe import Recipe
from spadecli.core.recipe_files import find_recipe, load_recipe, shipped_dir, shipped_recipes
from spadecli.segmenter.class_mapping import read_mapping

GUIDES = ("README.md", "docs/*.md", "recipes/README.md", "weights/README.md")
FILES = [path for pattern in GUIDES for path in sorted(ROOT.glob(pattern))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in FILES}
README = TEXTS["README.md"]
NAMES = {command.__name__.replace("_", "-") for command in COMMANDS}
GPU, DATA = "# needs a GPU", "# needs the data"


@dataclass(frozen=True)
class Block:
    """A fenced block of a guide."""

    guide: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.guide}:{self.line}"


def blocks(kind: str) -> list[Block]:
    """The blocks of all guides in order."""
    return [
        Block(guide, text[: match.start()].count("\n") + 1, match[1], match[2])
        for guide, text in TEXTS.items()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
        if match[1] == kind
    ]


def sessions(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines shown below it."""
    _, *parts = re.split(r"^\$ ", block.text, flags=re.M)
    return [(line, shown.splitlines()) for line, _, shown in (part.partition("\n") for part in parts)]


def command_lines() -> Iterator[tuple[str, str]]:
    """(guide, line) of every command that is shown, alone on a line or between backquotes."""
    for guide, text in TEXTS.items():
        plain = re.sub(r"^```.*?^```$", lambda m: m[0].replace("`", " "), text, flags=re.M | re.S)
        found = re.findall(r"^(?:\$ )?((?:spade|torchrun) .*)$", plain, re.M)
        found += [re.sub(r"\s+", " ", span) for span in re.findall(r"`((?:spade|torchrun)\s[^`]+)`", plain)]
        for line in found:
            yield guide, line


LINES = sorted(set(command_lines()))
SHOWN = [block for block in blocks("console") if GPU not in block.text]
RUN_HERE, RUN_WITH_DATA = ([b for b in SHOWN if (DATA in b.text) == wanted] for wanted in (False, True))


def words_of(line: str) -> list[str]:
    """The words behind "spade", without a comment."""
    words = shlex.split(line, comments=True)
    return words[words.index("spadecli") + 1 :] if words[0] == "torchrun" and "spadecli" in words else words[1:]


def test_enough_is_found():
    """Else the tests below hold nothing."""
    assert set(TEXTS) >= {"docs/scoring.md", "docs/engines.md", "docs/distributed.md", "recipes/README.md"}
    assert {guide for guide, _ in LINES} == set(TEXTS)
    assert {words_of(line)[0] for _, line in LINES} >= NAMES
    assert len(RUN_HERE) >= 8
    assert len(RUN_WITH_DATA) >= 2
    assert len(blocks("toml")) >= 3
    assert len(blocks("python")) == 2


@pytest.fixture(scope="module")
def help_of() -> dict[str, str]:
    """The help of each command, wide enough for every option to be on a line."""
    wide = {"COLUMNS": "200"}
    return {name: CliRunner().invoke(app, [name, "--help"], env=wide).stdout for name in NAMES}


@pytest.mark.parametrize(("guide", "line"), LINES)
def test_commands_options_and_recipes_exist(guide, line, help_of):
    words = words_of(line)
    if words[0].startswith("-"):
        assert line.startswith("torchrun")
        return  # options of torchrun's
    assert words[0] in NAMES, f"{guide}: {line}"
    for option in (word for word in words[1:] if re.match(r"--?[a-z]", word)):
        assert re.search(rf"(^|[\s,\[]){re.escape(option)}\b", help_of[words[0]], re.M), f"{guide}: no {option}"
    given = dict(itertools.pairwise(words))
    named = [given.get("--recipe"), given.get("--holdout"), given.get("train"), given.get("train-segmenter")]
    for recipe in (name for name in named if name and not name.startswith("-") and name != "NAME"):
        assert recipe in shipped_recipes(), f"{guide}: no recipe {recipe}"
    overrides = [value for word, value in itertools.pairwise(words) if word == "--set"]
    load_recipe(find_recipe("facades"), overrides)


def test_options_named_alone_exist(help_of):
    known = set(re.findall(r"--[a-z][a-z-]*", " ".join(help_of.values()).replace("--[no-]", "--no-")))
    named = {(guide, option) for guide, text in TEXTS.items() for option in re.findall(r"`(--[a-z][a-z-]*)", text)}
    assert len(named) > 25
    assert {(guide, option) for guide, option in named if option not in known} == set()


def keys_of(model: type, prefix: str = "") -> set[str]:
    """Every key that a recipe may have, "train.batch" and the like."""
    found = set()
    for name, field in model.model_fields.items():
        found.add(prefix + name)
        if hasattr(field.annotation, "model_fields"):
            found |= keys_of(field.annotation, f"{prefix}{name}.")
    return found


def test_recipe_keys_exist():
    sections = {"data", "labels", "model", "discriminator", "loss", "train", "validation"}
    named = {
        (guide, key)
        for guide, text in TEXTS.items()
        for key, section in re.findall(r"`((\w+)\.\w+)(?: ?=[^`]*)?`", text)
        if section in sections
    }
    assert len(named) > 15
    assert {(guide, key) for guide, key in named if key not in keys_of(Recipe)} == set()


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_is_a_valid_recipe_or_mapping(block, tmp_path):
    path: Path = tmp_path / "file.toml"
    path.write_text(block.text)
    if "recipe" in tomllib.loads(block.text):
        mapping = read_mapping(path)
        assert set(mapping.classes.values()) <= {c.name for c in mapping.labels.classes}
        return
    recipe = load_recipe(path).recipe
    assert recipe.name != "file"
    if block.guide == "README.md":
        assert len(block.text.strip().splitlines()) <= 10
        assert recipe.labels.unknown_channel == 0


def test_the_table_of_recipes_is_what_the_recipes_are():
    from spadecli.training.memory import estimate_memory
    from spadecli.training.setup import count_parameters

    rows = dict(re.findall(r"^\| `([\w-]+)` \|(.*)\|$", TEXTS["recipes/README.md"], re.M))
    assert set(rows) == {name for name in shipped_recipes() if not name.endswith("-vae")}
    for name, row in rows.items():
        if name == "custom":
            continue
        recipe, (_, size, classes, generator, memory) = load_recipe(find_recipe(name)).recipe, row.split("|")
        labels = recipe.labels
        extras = " + unknown" * bool(labels.unknown) + " + edges" * labels.instances
        assert size.strip() == "{}x{}".format(*recipe.model.size)
        assert classes.strip() == f"{labels.num_classes - bool(labels.unknown)}{extras}", name
        assert generator.strip() == f"{count_parameters(recipe)['generator'] / 1e6:.1f} M", name
        batch = f" (batch {recipe.train.batch})" * (recipe.train.batch != 32)
        assert memory.strip() == f"{estimate_memory(recipe).total / 2**30:.0f} GiB{batch}", name


def test_linked_and_named_files_exist():
    for guide, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
            assert (ROOT / guide).parent.joinpath(target).exists(), f"{guide}: {target}"
        for script in re.findall(r"\b(bench_\w+\.py)\b", text):
            assert (ROOT / "tests" / "bench" / script).is_file(), f"{guide}: {script}"
        for target in re.findall(r"`make ([\w-]+)`|^make ([\w-]+)", text, re.M):
            assert f"\n{''.join(target)}:" in (ROOT / "Makefile").read_text(), f"{guide}: make {target}"


def test_length():
    assert len(README.splitlines()) <= 180
    long = [f"{g}:{i}" for g, t in TEXTS.items() for i, line in enumerate(t.splitlines(), 1) if len(line) > 120]
    assert long == []


# What is shown is what is printed.

UNCERTAIN = (
    (r"\d+(\.\d+)? s\b", "TIME s"),
    (r"\d+(\.\d+)? images/s", "SPEED images/s"),
    (r"\d\.\de-\d\d\b", "TINY"),
)


def same_line(shown: str, printed: str) -> bool:
    """Whether a line is as shown: words and whole numbers are equal, decimals to one part in fifty."""
    if shown.endswith("..."):
        printed, shown = printed[: len(shown) - 3], shown[:-3]
    for pattern, word in UNCERTAIN:
        shown, printed = re.sub(pattern, word, shown), re.sub(pattern, word, printed)
    decimal = r"-?\d+\.\d+"
    if [w.split() for w in re.split(decimal, shown)] != [w.split() for w in re.split(decimal, printed)]:
        return False
    pairs = zip(re.findall(decimal, shown), re.findall(decimal, printed), strict=True)
    return all(float(a) == pytest.approx(float(b), rel=0.02, abs=0.011) for a, b in pairs)


def first_difference(shown: list[str], printed: list[str]) -> str | None:
    """The first shown line that is not printed, or None. Lines after the last one shown are not looked at."""
    at, skipping = 0, False
    for line in shown:
        if line == "...":
            skipping = True
            continue
        while skipping and at < len(printed) and not same_line(line, printed[at]):
            at += 1
        if at == len(printed) or not same_line(line, printed[at]):
            return line
        at, skipping = at + 1, False
    return None


def test_the_comparison_sees_differences():
    printed = ["weights: w (facades)", "8 images of 8 masks in 1.0 s (8.0 images/s): out", "mean IoU: 43.1%", "end"]
    assert first_difference(["weights: ...", "8 images of 8 masks in 9 s (1.2 images/s): out"], printed) is None
    assert first_difference(["...", "mean IoU: 43.2%", "end"], printed) is None
    for wrong in ("mean IoU: 41.5%", "9 images of 8 masks in 1.0 s (8.0 images/s): out", "mean", "weights: v ..."):
        assert first_difference(["...", wrong], printed) == wrong
    assert first_difference(["weights: ...", "mean IoU: 43.1%"], printed) == "mean IoU: 43.1%"
    assert first_difference(["...", "end", "more"], printed) == "more"


class Session:
    """A folder in which the commands of blocks are run, each block once and in order."""

    def __init__(self, folder: Path, blocks: list[Block]) -> None:
        self.folder, self._blocks = folder, blocks
        self._printed: dict[str, list[str]] = {}
        (folder / "weights").symlink_to(shipped_dir("weights"))
        self.run("spade examples")

    def run(self, line: str) -> list[str]:
        """What a command prints on both streams, the project's own folder left out of paths; the last line: its end."""
        if line not in self._printed:
            cache = str(self.folder / "cache")
            env = {f"SPADE_{name}_DEVICE": "cpu" for name in ("RENDER", "STYLIZE", "SCORE", "TRAIN")}
            env |= {"COLUMNS": "120", "SPADE_CACHE": cache, "TORCH_HOME": cache}
            with contextlib.chdir(self.folder):
                done = CliRunner().invoke(app, words_of(line), env=env)
            text = done.output.replace(f"{shipped_dir('weights').parent}/", "")
            end = [] if done.exception is None else [f"{type(done.exception).__name__}: {done.exception}"]
            self._printed[line] = [part.rstrip() for part in text.splitlines()] + end
        return self._printed[line]

    def check(self, block: Block) -> None:
        """Run the blocks up to this one, and compare what this one prints with what it shows."""
        for earlier in self._blocks[: self._blocks.index(block)]:
            for line, _ in sessions(earlier):
                self.run(line)
        for line, shown in sessions(block):
            printed = self.run(line)
            wrong = first_difference(shown, printed)
            diff = "\n".join(difflib.unified_diff(shown, printed, "shown", "printed", n=1, lineterm=""))
            assert wrong is None, f"{block}: $ {line}\nnot printed: {wrong}\n{diff}"


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Session:
    """With what every installation has."""
    return Session(tmp_path_factory.mktemp("guides"), RUN_HERE)


@pytest.fixture(scope="module")
def with_data(tmp_path_factory) -> Session:
    """With the facades too, and the masks that their recipe holds out."""
    folder = tmp_path_factory.mktemp("guides_with_data")
    facades, network = shared("data", "facades", "train"), "squeezenet1_1_pooled.torchscript.pt"
    (folder / "data").mkdir()
    (folder / "data" / "facades").symlink_to(facades)
    (folder / network).symlink_to(shared("data", "weights", network))
    (folder / "held-out").mkdir()
    for name in load_recipe(find_recipe("facades")).recipe.data.holdout:
        shutil.copy(facades / "masks" / f"{name}.png", folder / "held-out")
    return Session(folder, RUN_WITH_DATA)


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN_HERE, ids=str)
def test_commands_print_what_is_shown(block, here):
    here.check(block)


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN_WITH_DATA, ids=str)
def test_commands_on_data_print_what_is_shown(block, with_data):
    with_data.check(block)


def test_the_python_example_runs(here):
    (example,) = (block.text for block in blocks("python") if "import spadecli" in block.text)
    found: dict[str, Any] = {}
    with contextlib.chdir(here.folder):
        exec(example, found)
    assert found["result"].images + found["result"].skipped == 32
    assert found["images"].shape == (2, 3, 256, 256)


def test_the_onnx_example_runs_without_this_package(here):
    (example,) = (block.text for block in blocks("python") if "import onnxruntime" in block.text)
    assert "spadecli" not in example
    (convert,) = (line for block in RUN_HERE for line, _ in sessions(block) if "--to onnx" in line)
    here.run(convert)
    command = [sys.executable, "-I", "-c", example]
    done = subprocess.run(command, cwd=here.folder, capture_output=True, text=True, check=True)
    assert "window" in done.stdout
    assert len(list(here.folder.glob("gables_*.png"))) == 4
