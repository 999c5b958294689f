"""Procedural textures: the colour of a point of a toy, the ground, the wall or the sky.

All patterns are functions of position, so that a picture needs no file. Noise is looked up in one
fixed tile that repeats every 8 units. P points [3, P]; colours are RGB in [0, 1], float64 [3, P]; a
pattern is a weight in [0, 1], [P].
"""

from __future__ import annotations

import colorsys
import functools

import cv2
import numpy as np

from .scene import Scene, Toy

TILE, PER_UNIT = 1024, 128


@functools.cache
def noise_tile() -> np.ndarray:
    """Fractal noise in [0, 1], periodic, [TILE, TILE]; the same in every run."""
    rng = np.random.Generator(np.random.PCG64(20))
    total = np.zeros((TILE, TILE))
    for cells in (8, 16, 32, 64, 128, 256):
        lattice = np.pad(rng.random((cells, cells)), 2, mode="wrap")
        scale = TILE // cells
        smooth = cv2.resize(lattice, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += smooth[2 * scale : -2 * scale, 2 * scale : -2 * scale] * (8 / cells) ** 0.75
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Noise at (u, v), features of one unit and finer."""
    column = np.floor(u * PER_UNIT).astype(np.int64) % TILE
    row = np.floor(v * PER_UNIT).astype(np.int64) % TILE
    return noise_tile()[row, column]


def noise_patch(height: int, width: int, start: int) -> np.ndarray:
    """Piece [height, width] of the noise tile, one pixel of the tile each."""
    rows = (start + np.arange(height)) % TILE
    return noise_tile()[rows[:, None], (start + np.arange(width)) % TILE]


def _fract(x: np.ndarray) -> np.ndarray:
    return x - np.floor(x)


def _line(x: np.ndarray, width: float) -> np.ndarray:
    """1 within ``width`` of a whole number, else 0."""
    return (np.abs(_fract(x + 0.5) - 0.5) < width).astype(np.float64)


def _dots(p: np.ndarray, per_unit: float, radius: float) -> np.ndarray:
    cell = _fract(p * per_unit + 0.25) - 0.5
    return ((cell * cell).sum(0) < radius * radius).astype(np.float64)


def _facade(p: np.ndarray) -> np.ndarray:
    """Door and two windows in the gable, windows in the side walls."""
    x, y, z = p[0], p[1], p[2]
    front = y < -0.41
    door = front & (np.abs(x) < 0.1) & (z < 0.36)
    panes = front & (np.abs(np.abs(x) - 0.28) < 0.085) & (np.abs(z - 0.33) < 0.1)
    attic = front & (x * x + (z - 0.68) ** 2 < 0.008)
    side = (np.abs(x) > 0.45) & (np.abs(np.abs(y) - 0.2) < 0.09) & (np.abs(z - 0.33) < 0.1)
    return (door | panes | attic | side).astype(np.float64)


def pattern(name: str, p: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Weight of the second colour at points of a toy, in toy coordinates."""
    angle = np.arctan2(p[1], p[0]) / (2 * np.pi)
    if name == "plain":
        return 0.15 * noise(p[0] + p[1], p[2])
    if name == "segments":
        return (np.floor(angle * 6) % 2 == 0).astype(np.float64)
    if name == "bands":
        return (_fract(p[2] * 2.6) < 0.42).astype(np.float64)
    if name == "checks":
        cells = np.floor(p[0] * 4 + 20) + np.floor(p[1] * 4 + 20) + np.floor(p[2] * 4 + 0.01)
        return cells % 2
    if name == "dots":
        return _dots(p, 3.2, 0.34)
    if name == "sprinkles":
        return _dots(p + 0.06 * noise(p[0], p[2]), 6.5, 0.3)
    if name == "marble":
        return np.clip(4 * (noise(p[0] + 0.3 * p[1] + 3, p[2] + p[1]) - 0.45), 0, 1)
    if name == "planks":
        grain = 0.5 * noise((p[0] + p[1]) * 0.4, p[2] * 4)
        frame = (np.abs(p[0]) > 0.38) & (np.abs(p[1]) > 0.38)
        frame |= (p[2] < 0.09) | (p[2] > 0.81)
        return np.clip(grain + 0.8 * _line(p[2] * 4.5, 0.05) * ~frame - 0.15 * frame, 0, 1)
    if name == "rims":
        rim = np.abs(p[2] - 0.5) > 0.41
        return np.maximum(rim, 0.7 * _line(angle * 10 + 0.5 * _fract(p[2]), 0.06))
    if name == "facets":
        return _fract(part * 0.618034)
    raise AssertionError(f"no pattern {name!r}")


def toy_color(toy: Toy, p: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Colour of points of a toy in toy coordinates; ``part`` as the shape numbers its parts."""
    first, second = np.array(toy.color)[:, None], np.array(toy.color2)[:, None]
    if toy.shape == "house":
        roof = part < 2
        tiles = 0.75 + 0.25 * _fract(p[2] * 9)
        panes = _facade(p)
        walls = first * (1 - panes) + np.array([[0.18], [0.2], [0.3]]) * panes
        return np.where(roof, second * tiles, walls)
    weight = pattern(toy.pattern, p, part)
    color = first * (1 - weight) + second * weight
    if toy.shape == "mushroom":
        color = np.where((part == 1), np.array([[0.93], [0.88], [0.78]]), color)
    return color


def ground_color(scene: Scene, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colour of the ground; patterns fade with the distance before they alias."""
    base = np.array(scene.ground_color)
    x, y = x + scene.offset[0], y + scene.offset[1]
    keep = np.clip(1.4 - np.abs(y - scene.offset[1]) / 14, 0, 1)
    rough = noise(x * 0.5, y * 0.5) - 0.5
    if scene.ground == "grass":
        tone = 1 + 0.7 * rough + 0.35 * keep * (noise(x * 3.1, y * 1.2) - 0.5)
    elif scene.ground == "boards":
        row = np.floor(x * 2.2)
        tone = 0.95 + 0.25 * (_fract(row * 0.618) - 0.5) + 0.3 * (noise(x * 4, y * 0.4 + row) - 0.5)
        tone -= 0.35 * keep * _line(x * 2.2, 0.03)
    elif scene.ground == "tiles":
        tone = 1.1 + keep * (0.5 * ((np.floor(x * 1.4) + np.floor(y * 1.4)) % 2) - 0.25)
    elif scene.ground == "sand":
        ripple = np.abs(_fract(y * 1.6 + 1.5 * noise(x * 0.4, y * 0.4)) - 0.5)
        tone = 0.97 + 0.12 * rough + 0.14 * keep * (ripple - 0.25)
    elif scene.ground == "asphalt":
        tone = 0.9 + 0.3 * rough + 0.3 * keep * (noise(x * 7, y * 7) - 0.5)
        stripe = (np.abs(_fract(x * 0.22) - 0.5) < 0.02) & (_fract(y * 0.5) < 0.6)
        tone = np.where(stripe, 1.75, tone)
    else:
        tone = 0.95 + 0.3 * keep * ((_fract(y * 1.1) < 0.35) - 0.35) + 0.15 * rough
    return base[:, None] * tone


def wall_color(scene: Scene, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Colour of the wall behind the scene, with a white skirting board."""
    base = np.array(scene.wall_color)
    x = x + scene.offset[0]
    if scene.wall_pattern == "paper":
        tone = 0.97 - 0.12 * (_fract(x * 1.5) < 0.5)
    elif scene.wall_pattern == "bricks":
        row = np.floor(z * 3)
        joint = np.maximum(_line(z * 3, 0.06), _line(x * 1.5 + 0.5 * (row % 2), 0.03))
        tone = (
            0.8
            + 0.2 * joint
            + 0.25 * (noise(np.floor(x * 1.5 + 0.5 * (row % 2)) * 0.37, row * 0.21) - 0.5)
        )
    else:
        tone = 0.95 + 0.15 * (noise(x * 0.4, z * 0.4) - 0.5)
    return np.where((z < 0.18), np.array([[0.93], [0.92], [0.9]]), base[:, None] * tone)


def sky_color(scene: Scene, d: np.ndarray) -> np.ndarray:
    """Colour of the sky in directions of unit length [3, P]: a gradient with clouds."""
    up = np.clip(d[2] * 2.2, 0, 1)
    zenith = np.array(colorsys.hsv_to_rgb(scene.sky_hue, 0.55, 0.85))[:, None]
    sky = np.array([[0.88], [0.92], [0.96]]) * (1 - up) + zenith * up
    height = np.maximum(d[2], 0.03) + 0.1
    u, v = d[0] / height + scene.offset[0], d[1] / height + scene.offset[1]
    cloud = np.clip(3.5 * (noise(u * 0.5, v * 0.5) - 0.52), 0, 0.85)
    return sky * (1 - cloud) + 0.97 * cloud


def hill_height(scene: Scene, d: np.ndarray) -> np.ndarray:
    """Elevation (tangent) of the far hills in directions [3, P]."""
    azimuth = d[0] / np.maximum(d[1], 1e-6)
    return (
        0.16 * noise(azimuth * 0.8 + scene.offset[0], np.full(d.shape[1], scene.offset[1])) - 0.02
    )


def hill_color(elevation: np.ndarray) -> np.ndarray:
    """Colour of far hills: hazy below, greener above."""
    fade = np.clip(elevation * 4, 0, 0.4)
    return np.array([[0.6], [0.68], [0.72]]) * (1 - fade) + np.array([[0.3], [0.4], [0.35]]) * fade
