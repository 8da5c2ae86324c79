"""Example masks: original facades, drawn with the classes and conventions of the CMP Facade Database.

A layout is one or more houses side by side; a house is a stack of storeys from the top down; a storey is a row
of bays, one letter each. Numbers are pixels of a 256x256 mask. As in the database, "molding" is the band between
storeys, "cornice" the hood above a window, "sill" the strip below it and "blind" a shutter beside it; everything
around and below the houses is background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SIZE = 256
BACKGROUND, FACADE, WINDOW, DOOR, CORNICE, SILL, BALCONY, BLIND, DECO, MOLDING, PILLAR, SHOP = range(12)


@dataclass(frozen=True)
class Bay:
    """One opening with its parts, centred in its column.

    width, height: size of the opening. raise_: its height above the foot of the storey. kind: its class.
    hood, panel, sill: heights of the cornice above it, the ornament above that, and the sill below (0: none).
    blind: width of the shutter on each side. balcony: height of the balcony in front of the opening's foot.
    mullion: whether a pillar divides the opening.
    """

    width: int
    height: int
    kind: int = WINDOW
    raise_: int = 8
    hood: int = 0
    sill: int = 0
    panel: int = 0
    blind: int = 0
    balcony: int = 0
    mullion: bool = False


@dataclass(frozen=True)
class Storey:
    """A row of bays: one letter per column, looked up in the layout's bays; a dot leaves the column blank.

    molding, deco: heights of the bands along the storey's top. gallery: height of a balcony along its whole foot.
    pillars: width of the pillars between the columns and at both ends. inset: width cut off on each side, as in a
    gable; it stays background.
    """

    height: int
    columns: str
    molding: int = 0
    deco: int = 0
    gallery: int = 0
    pillars: int = 0
    inset: int = 0


@dataclass(frozen=True)
class House:
    """A stack of storeys between the pixel columns ``left`` and ``right``, from row ``top`` down."""

    left: int
    right: int
    top: int
    storeys: tuple[Storey, ...]


@dataclass(frozen=True)
class Layout:
    """A street front: houses, and the bay of each letter."""

    houses: tuple[House, ...]
    bays: Mapping[str, Bay] = field(default_factory=dict)


def draw(layout: Layout) -> NDArray[np.uint8]:
    """Draw the label map of a layout: uint8 [256,256] of file values 0..11."""
    mask = np.full((SIZE, SIZE), BACKGROUND, np.uint8)
    for house in layout.houses:
        top = house.top
        for storey in house.storeys:
            _draw_storey(mask, storey, house.left + storey.inset, house.right - storey.inset, top, layout.bays)
            top += storey.height
    return mask


def _fill(mask: NDArray[np.uint8], kind: int, left: float, top: float, right: float, bottom: float) -> None:
    mask[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = kind


def _draw_storey(
    mask: NDArray[np.uint8], storey: Storey, left: int, right: int, top: int, bays: Mapping[str, Bay]
) -> None:
    foot = top + storey.height
    _fill(mask, FACADE, left, top, right, foot)
    column = (right - left) / len(storey.columns)
    for i, letter in enumerate(storey.columns):
        if letter != ".":
            _draw_bay(mask, bays[letter], left + (i + 0.5) * column, foot)
    if storey.gallery:
        _fill(mask, BALCONY, left + 4, foot - storey.gallery, right - 4, foot)
    if storey.pillars:
        for i in range(len(storey.columns) + 1):
            x = min(max(left + i * column - storey.pillars / 2, left), right - storey.pillars)
            _fill(mask, PILLAR, x, top, x + storey.pillars, foot)
    _fill(mask, MOLDING, left, top, right, top + storey.molding)
    _fill(mask, DECO, left, top + storey.molding, right, top + storey.molding + storey.deco)


def _draw_bay(mask: NDArray[np.uint8], bay: Bay, centre: float, storey_foot: int) -> None:
    left, right = centre - bay.width / 2, centre + bay.width / 2
    foot = storey_foot - bay.raise_
    top = foot - bay.height
    _fill(mask, bay.kind, left, top, right, foot)
    if bay.mullion:
        _fill(mask, PILLAR, centre - 2, top, centre + 2, foot)
    _fill(mask, BLIND, left - bay.blind, top, left, foot)
    _fill(mask, BLIND, right, top, right + bay.blind, foot)
    _fill(mask, CORNICE, left - 3, top - bay.hood, right + 3, top)
    _fill(mask, DECO, left, top - bay.hood - bay.panel, right, top - bay.hood)
    _fill(mask, SILL, left - 3, foot, right + 3, foot + bay.sill)
    _fill(mask, BALCONY, left - 6, foot - bay.balcony, right + 6, foot + min(4, bay.balcony))


HAUSSMANN = Layout(
    houses=(
        House(
            6,
            250,
            10,
            (
                Storey(34, "d.d.d.d", molding=5),
                Storey(42, "ttttttt", molding=8, gallery=13),
                Storey(50, "hhhhhhh", molding=4),
                Storey(54, "bbbbbbb", molding=5, gallery=14),
                Storey(52, "ssDss", molding=8),
            ),
        ),
    ),
    bays={
        "d": Bay(16, 19, raise_=2, hood=5),
        "t": Bay(15, 27, raise_=4),
        "h": Bay(15, 26, hood=4, sill=3, panel=6),
        "b": Bay(15, 38, raise_=4, hood=5),
        "s": Bay(40, 34, SHOP, raise_=4),
        "D": Bay(24, 38, DOOR, raise_=2, panel=4),
    },
)

TERRACE = Layout(
    houses=(
        House(0, 84, 22, (Storey(66, "www", molding=10), Storey(64, "www", molding=3), Storey(78, "Dww", molding=4))),
        House(88, 170, 14, (Storey(70, "www", molding=12), Storey(66, "www"), Storey(80, "wwD", molding=5))),
        House(174, 256, 26, (Storey(64, "www", molding=9), Storey(62, "www"), Storey(78, "Dww", molding=4))),
    ),
    bays={
        "w": Bay(16, 34, raise_=12, hood=4, sill=4),
        "D": Bay(18, 46, DOOR, raise_=8, hood=4, panel=10),
    },
)

OFFICE = Layout(
    houses=(
        House(
            0,
            256,
            4,
            (
                *(Storey(29, "wwwwwwwwww", molding=9 if i == 0 else 3) for i in range(6)),
                Storey(62, "sssDss", molding=9, pillars=6),
            ),
        ),
    ),
    bays={
        "w": Bay(17, 17, raise_=4),
        "s": Bay(33, 42, SHOP, raise_=2),
        "D": Bay(26, 42, DOOR, raise_=2),
    },
)

PALAZZO = Layout(
    houses=(
        House(
            8,
            248,
            14,
            (
                Storey(30, "aaaaa", molding=14),
                Storey(76, "WWWWW", molding=6, pillars=6),
                Storey(54, "BBBBB", molding=5),
                Storey(72, "rrDrr", molding=8, pillars=9),
            ),
        ),
    ),
    bays={
        "a": Bay(16, 9, raise_=4),
        "W": Bay(20, 42, raise_=12, hood=6, sill=4, panel=6),
        "B": Bay(20, 32, raise_=8, hood=5, balcony=14),
        "r": Bay(28, 52, raise_=4),
        "D": Bay(28, 56, DOOR, raise_=2),
    },
)

APARTMENTS = Layout(
    houses=(
        House(
            40,
            216,
            8,
            (
                *(Storey(40, "bwwb", molding=8 if i == 0 else 0) for i in range(5)),
                Storey(38, "ggDg", molding=4),
            ),
        ),
    ),
    bays={
        "b": Bay(26, 26, raise_=4, balcony=14),
        "w": Bay(16, 18, raise_=12, sill=3, blind=6),
        "g": Bay(20, 16, raise_=12, sill=3),
        "D": Bay(20, 30, DOOR, raise_=2, hood=4),
    },
)

GABLES = Layout(
    houses=(
        House(
            10,
            86,
            20,
            (
                Storey(24, "g", inset=26, deco=4),
                Storey(34, "ww", inset=14),
                Storey(46, "www", molding=5),
                Storey(50, "www", molding=4),
                Storey(64, "sD", molding=6),
            ),
        ),
        House(
            90,
            174,
            8,
            (
                Storey(26, "g", inset=30, deco=5),
                Storey(36, "ww", inset=16),
                Storey(50, "bwb", molding=6),
                Storey(56, "bwb", molding=4),
                Storey(66, "Ds", molding=6),
            ),
        ),
        House(
            178,
            248,
            50,
            (
                Storey(26, "ww", inset=10),
                Storey(48, "www", molding=7),
                Storey(50, "www", molding=4),
                Storey(68, "sD", molding=5),
            ),
        ),
    ),
    bays={
        "g": Bay(12, 12, raise_=4, sill=2),
        "w": Bay(10, 24, raise_=10, sill=3, blind=5),
        "b": Bay(11, 28, raise_=8, hood=4, balcony=9),
        "s": Bay(30, 40, SHOP, raise_=4),
        "D": Bay(18, 44, DOOR, raise_=2, hood=4),
    },
)

LOFT = Layout(
    houses=(
        House(
            0,
            256,
            6,
            (
                Storey(22, ".....", molding=10, deco=8),
                Storey(56, "wwwww", pillars=8),
                Storey(54, "wwwww", molding=5, pillars=8),
                Storey(54, "wwwww", molding=5, pillars=8),
                Storey(54, "ssDss", molding=8, pillars=8),
            ),
        ),
    ),
    bays={
        "w": Bay(36, 38, raise_=7, sill=4, mullion=True),
        "s": Bay(36, 40, SHOP, raise_=3),
        "D": Bay(26, 40, DOOR, raise_=2),
    },
)

CORNER = Layout(
    houses=(
        House(
            0,
            146,
            12,
            (
                Storey(44, "hhhh", molding=9, deco=4),
                Storey(46, "hhhh", molding=4),
                Storey(48, "bhhb", molding=4),
                Storey(46, "hhhh", molding=4),
                Storey(52, "SDSS", molding=6),
            ),
        ),
        House(
            150,
            256,
            60,
            (
                Storey(24, "a.a"),
                Storey(56, "vvv", molding=8),
                Storey(52, "vvv", molding=4),
                Storey(56, "vDv", molding=5),
            ),
        ),
    ),
    bays={
        "h": Bay(16, 24, raise_=8, hood=4, sill=3),
        "b": Bay(16, 26, raise_=6, hood=4, balcony=11),
        "v": Bay(14, 28, raise_=12, sill=4, blind=6),
        "a": Bay(12, 16, raise_=3, hood=3),
        "S": Bay(28, 36, SHOP, raise_=3),
        "D": Bay(18, 38, DOOR, raise_=2, panel=3),
    },
)

EXAMPLES: Mapping[str, Layout] = {
    "apartments": APARTMENTS,
    "corner": CORNER,
    "gables": GABLES,
    "haussmann": HAUSSMANN,
    "loft": LOFT,
    "office": OFFICE,
    "palazzo": PALAZZO,
    "terrace": TERRACE,
}
