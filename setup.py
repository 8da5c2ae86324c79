"""Build hook: a wheel carries the clone's ``recipes/`` and ``weights/`` as ``spadecli/shipped/``."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = {"recipes": "*.toml", "weights": "*.safetensors"}


class BuildWithShipped(build_py):
    """Copy what is shipped beside the code; an editable install reads it from the clone instead."""

    def run(self) -> None:
        """Build the modules, then add the shipped files."""
        super().run()
        if self.editable_mode:
            return
        for folder, pattern in SHIPPED.items():
            target = Path(self.build_lib, "spadecli", "shipped", folder)
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for file in sorted(Path(folder).glob(pattern)):
                shutil.copy2(file, target)


setup(cmdclass={"build_py": BuildWithShipped})
