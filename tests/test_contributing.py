"""CONTRIBUTING's map of the code is the code's."""

import re
import tomllib

from conftest import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_tree_is_the_packages_in_the_order_of_the_import_contract():
    drawn = re.findall(r"^  (\w+)/ ", TEXT, re.M)
    assert sorted(drawn) == sorted(p.parent.name for p in (ROOT / "spadecli").glob("*/__init__.py"))
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    assert [name for layer in layers for name in layer.split(" | ")] == drawn


def test_files_it_names_are_there():
    table = TEXT[TEXT.index("### Where to look") : TEXT.index("## Why a C++ file")]
    named = {n for n in re.findall(r"`([\w./]+\.(?:py|cpp))`", table) if "/" in n}
    assert len(named) > 10
    assert [n for n in sorted(named) if not (ROOT / "spadecli" / n).is_file()] == []
    assert [n for n in re.findall(r"`((?:tests|spadecli)/[\w./]+\.\w+)`", TEXT) if not (ROOT / n).is_file()] == []
