"""Build hooks: copy ``recipes/`` and ``weights/`` into a wheel as ``spadecli/shipped/``, and compile the kernels.

The kernels are optional: without a compiler they are skipped, and spade computes with torch.
"""

import platform
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

SHIPPED = {"recipes": ("*.toml",), "weights": ("*.safetensors", "*.h5", "examples/*/*.png")}
# name of a build -> compiler flags of its instruction set; native.py loads the best for the machine
BUILDS = {"base": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    BUILDS = {"base": [], "v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}
# compiled for OpenMP but not linked with its library, as the kernels run in torch's OpenMP threads
OPENMP = ["-Xpreprocessor", "-fopenmp"] if sys.platform == "darwin" else ["-fopenmp"]


class BuildWithShipped(build_py):
    """Add the shipped files to a build; an editable install reads them from the clone instead."""

    def run(self) -> None:
        """Build the modules, then copy the shipped files."""
        super().run()
        if self.editable_mode:
            return
        for folder, patterns in SHIPPED.items():
            target = Path(self.build_lib, "spadecli", "shipped", folder)
            shutil.rmtree(target, ignore_errors=True)
            for file in sorted(f for pattern in patterns for f in Path(folder).glob(pattern)):
                copy = target / file.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, copy)


def kernels() -> list[Extension]:
    """Return one library per instruction set, all from the same source."""
    if sys.platform == "win32":  # not tested there
        return []
    return [
        Extension(
            f"spadecli.kernels._kernels_{name}",
            ["spadecli/kernels/kernels.cpp"],
            extra_compile_args=["-O3", "-g0", "-std=c++17", *OPENMP, *flags],
            optional=True,
        )
        for name, flags in BUILDS.items()
    ]


setup(cmdclass={"build_py": BuildWithShipped}, ext_modules=kernels())
