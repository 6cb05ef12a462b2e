"""Crystals whose every property is known, for the tests of evaluation."""

from __future__ import annotations

import numpy as np

from nqs.crystal.structures.structure import Structure

FACE_CENTRED = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
CORNER_AND_CENTRE = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]


def cubic(a: float, numbers: list[int], positions: list[list[float]]) -> Structure:
    return Structure.wrapped(np.full(3, a), np.full(3, 90.0), numbers, positions)


def rock_salt(a: float = 5.64, cation: int = 11, anion: int = 17) -> Structure:
    """The conventional cell, four formula units."""
    anions = [[x + 0.5, y, z] for x, y, z in FACE_CENTRED]
    return cubic(a, [cation] * 4 + [anion] * 4, FACE_CENTRED + anions)


def rock_salt_primitive(a: float = 5.64, cation: int = 11, anion: int = 17) -> Structure:
    edge = np.full(3, a / np.sqrt(2))
    return Structure(edge, np.full(3, 60.0), np.array([cation, anion]), np.array(CORNER_AND_CENTRE))


def caesium_chloride(a: float = 3.5, cation: int = 11, anion: int = 17) -> Structure:
    return cubic(a, [cation, anion], CORNER_AND_CENTRE)


def perovskite(a: float, corner: int, centre: int, face: int = 8) -> Structure:
    faces = [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    return cubic(a, [corner, centre, face, face, face], [*CORNER_AND_CENTRE, *faces])


def shaken(structure: Structure, size: float, seed: int) -> Structure:
    """Every coordinate moved by a normal deviate of `size`, in fractions of the cell."""
    noise = np.random.default_rng(seed).normal(scale=size, size=structure.positions.shape)
    return Structure.wrapped(
        structure.lengths, structure.angles, structure.numbers, structure.positions + noise
    )
