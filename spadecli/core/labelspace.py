"""Label spaces: which value in a mask file means which class, and which input channel that class has."""

from __future__ import annotations

import colorsys
from collections import Counter
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, field_validator, model_validator

from .schema import check_all

MAX_VALUES = 255


def auto_color(index: int) -> tuple[int, int, int]:
    """Return the default colour of class ``index``: hues a golden ratio apart, so that neighbours differ."""
    hue = (index * 0.618033988749895) % 1.0
    r, g, b = colorsys.hsv_to_rgb(hue, (0.85, 0.6, 0.4)[index % 3], (0.95, 0.75, 0.55)[(index // 3) % 3])
    return round(r * 255), round(g * 255), round(b * 255)


def _twice(items: list[Any]) -> list[Any]:
    """Return the items that occur more than once, each once, in order."""
    return [item for item, count in Counter(items).items() if count > 1]


class LabelClass(BaseModel):
    """One class: its name, its colour (R, G, B in 0..255), and the file values that stand for it.

    Several values may stand for one class; the first is the one that is written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    values: tuple[int, ...] = Field(min_length=1)
    color: tuple[int, int, int]

    @field_validator("values")
    @classmethod
    def _values_are_16_bit(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if bad := [v for v in values if not 0 <= v <= 65535]:
            raise ValueError(f"file values {bad} are outside 0..65535")
        return values

    @field_validator("color")
    @classmethod
    def _color_is_bytes(cls, color: tuple[int, int, int]) -> tuple[int, int, int]:
        if any(not 0 <= c <= 255 for c in color):
            raise ValueError(f"colour {color} is outside 0..255")
        return color


class LabelSpace(BaseModel):
    """The classes of a data set. The channel of a class is its position in ``classes``.

    unknown: name of the class that is fed to the network but left out of scores; None or "" if there is none.
    instances: whether an instance-edge channel follows the class channels.

    In TOML a class is either a name (its value is its position, its colour automatic) or a table with ``name``,
    ``value`` (one or several) and ``color``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    classes: tuple[LabelClass, ...] = Field(min_length=1)
    unknown: str | None = None
    instances: bool = False

    @field_validator("unknown")
    @classmethod
    def _none_where_empty(cls, unknown: str | None) -> str | None:
        return unknown or None

    @field_validator("classes", mode="before")
    @classmethod
    def _short_forms(cls, classes: Any) -> Any:
        if not isinstance(classes, list | tuple):
            return classes
        full = []
        for i, item in enumerate(classes):
            if isinstance(item, str):
                full.append({"name": item, "values": (i,), "color": auto_color(i)})
            elif isinstance(item, dict):
                entry = dict(item)
                value = entry.pop("value", None)
                if value is not None and "values" not in entry:
                    entry["values"] = (value,) if isinstance(value, int) else value
                entry.setdefault("values", (i,))
                if not isinstance(entry["values"], list | tuple):
                    entry["values"] = (entry["values"],)
                entry.setdefault("color", auto_color(i))
                full.append(entry)
            else:
                full.append(item)
        return full

    @model_validator(mode="wrap")
    @classmethod
    def _consistent(cls, tree: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        return check_all(cls, tree, check, cls._contradictions)

    @classmethod
    def _contradictions(cls, tree: dict[str, Any]) -> list[str]:
        """Find contradictions between classes; classes that are invalid by themselves are skipped."""
        classes = [c for c in cls._short_forms(tree.get("classes", ())) if isinstance(c, dict)]
        names = [c.get("name") for c in classes]
        values = [v for c in classes for v in c["values"]]
        problems = [f"class name {n!r} is used twice" for n in _twice(names)]
        if twice := _twice(values):
            problems.append(f"file values {twice} belong to two classes")
        if len(values) > MAX_VALUES:
            problems.append(f"{len(values)} file values; at most {MAX_VALUES} are possible")
        if same := _twice([tuple(c["color"]) for c in classes if isinstance(c["color"], list | tuple)]):
            problems.append(f"colours {same} belong to two classes")
        unknown = tree.get("unknown")
        if unknown and unknown not in names:
            problems.append(f'unknown = {unknown!r} is not one of the classes (unknown = "" means none)')
        return problems

    @property
    def num_classes(self) -> int:
        """Number of class channels, including the unknown class."""
        return len(self.classes)

    @property
    def semantic_channels(self) -> int:
        """Channels of the semantic map: the classes, then the edge channel if any."""
        return self.num_classes + int(self.instances)

    @property
    def unknown_channel(self) -> int | None:
        """Channel of the class left out of scores, or None."""
        return next((i for i, c in enumerate(self.classes) if c.name == self.unknown), None)

    @cached_property
    def file_values(self) -> tuple[int, ...]:
        """Every known file value, in ascending order."""
        return tuple(sorted(v for c in self.classes for v in c.values))

    @property
    def is_wide(self) -> bool:
        """Whether file values exceed 255, so that label maps hold ranks instead of file values."""
        return self.file_values[-1] > 255

    @cached_property
    def file_codes(self) -> dict[int, int]:
        """File value -> label code (uint8): the value itself, or in a wide space its rank in ``file_values``."""
        return {v: i if self.is_wide else v for i, v in enumerate(self.file_values)}

    @cached_property
    def code_to_channel(self) -> NDArray[np.int16]:
        """int16 [256]: channel of each label code, -1 for codes without a class."""
        table = np.full(256, -1, np.int16)
        for channel, c in enumerate(self.classes):
            for v in c.values:
                table[self.file_codes[v]] = channel
        return table

    @cached_property
    def channel_to_code(self) -> NDArray[np.uint8]:
        """uint8 [num_classes]: the label code that stands for each channel."""
        return np.array([self.file_codes[c.values[0]] for c in self.classes], np.uint8)

    @cached_property
    def code_colors(self) -> NDArray[np.uint8]:
        """uint8 [256, 3]: the colour of each label code; magenta for codes without a class."""
        table = np.full((256, 3), (255, 0, 255), np.uint8)
        for c in self.classes:
            for v in c.values:
                table[self.file_codes[v]] = c.color
        return table
