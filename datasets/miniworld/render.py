"""From a scene to light and to ground truth, by casting rays.

Two products: ``truth`` casts one ray through the centre of every pixel and keeps what geometry
knows (which toy, depth, normal); ``light`` casts 2 x 2 rays a pixel and computes what a camera
would see of them (colour, shadow, highlight), from which ``styles`` makes the picture. The four
rays of a pixel see the light from slightly different directions, which gives shadows a soft edge.
H W pixels, R rays; lengths in metres.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from . import paint
from .scene import Camera, Scene, Toy
from .shapes import EXTENT, FAR, SHAPES, Hit, dot

GROUND, WALL, SKY, HILLS = -1, -2, -3, -4
SAMPLES = 2


@dataclasses.dataclass
class Surfaces:
    """What R rays meet first."""

    distance: np.ndarray  # [R], FAR where the ray leaves the world
    surface: np.ndarray  # [R], index of a toy, or GROUND, WALL, SKY, HILLS
    normal: np.ndarray  # [3, R], unit length in world axes, 0 where nothing solid is met
    local: np.ndarray  # [3, R], the point in toy coordinates, off the toys in world coordinates
    part: np.ndarray  # [R], part of the toy as its shape numbers them
    covered: list[int]  # rays that each toy would meet if it stood alone


@dataclasses.dataclass
class Truth:
    """Ground truth of a picture."""

    surface: np.ndarray  # [H, W], index of a toy, or GROUND, WALL, SKY, HILLS
    depth: np.ndarray  # [H, W], along the optical axis, 0 where nothing solid is seen
    normal: np.ndarray  # [H, W, 3], unit length; x right, y up, z to the viewer; 0 as above
    visible: list[float]  # share of every toy that no other hides


@dataclasses.dataclass
class Light:
    """What the camera sees, [2H, 2W] each unless said otherwise."""

    albedo: np.ndarray  # [2H, 2W, 3], colour in [0, 1]
    direct: np.ndarray  # light of the lamp in [0, 1]: cosine and shadow
    ambient: np.ndarray  # light of the surroundings in [0, 1]
    highlight: np.ndarray  # mirror image of the lamp
    facing: np.ndarray  # cosine between normal and viewer
    distance: np.ndarray
    surface: np.ndarray  # as in Surfaces
    normal: np.ndarray  # [3, 2H, 2W], as in Surfaces


def rays(camera: Camera, samples: int) -> np.ndarray:
    """Unit directions [3, samples H * samples W] of a regular grid of rays."""
    width, height = camera.width * samples, camera.height_px * samples
    u = ((np.arange(width) + 0.5) / samples - camera.width / 2) / camera.focal
    v = ((np.arange(height) + 0.5) / samples - camera.height_px / 2) / camera.focal
    right, down = np.meshgrid(u, v)
    c, s = np.cos(camera.pitch), np.sin(camera.pitch)
    d = np.stack([right, c - s * down, -s - c * down]).reshape(3, -1)
    return d / np.sqrt(dot(d, d))


def _to_toy(toy: Toy, x: np.ndarray) -> np.ndarray:
    c, s = np.cos(toy.yaw) / toy.size, np.sin(toy.yaw) / toy.size
    return np.stack([c * x[0] + s * x[1], c * x[1] - s * x[0], x[2] / toy.size])


def _to_world(toy: Toy, n: np.ndarray) -> np.ndarray:
    c, s = np.cos(toy.yaw), np.sin(toy.yaw)
    n = np.stack([c * n[0] - s * n[1], s * n[0] + c * n[1], n[2]])
    return n / np.sqrt(dot(n, n))


def _near_toy(toy: Toy, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Indices of the rays that pass the bounding sphere of a toy; origins [3, R] or [3, 1]."""
    half, tall = EXTENT[toy.shape]
    center = np.array([*toy.position, tall * toy.size / 2])[:, None]
    reach = toy.size * np.hypot(half, tall / 2) * 1.01
    to = center - origins
    along = dot(to, directions)
    return np.flatnonzero((dot(to, to) - along * along < reach * reach) & (along > -reach))


def _meet(
    toy: Toy, origins: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Hit]:
    """Indices of the rays that pass near a toy; these rays in toy coordinates; what they hit."""
    rows = _near_toy(toy, origins, directions)
    base = np.array([*toy.position, 0.0])[:, None]
    d = _to_toy(toy, directions.take(rows, axis=1))
    start = _to_toy(toy, (origins if origins.shape[1] == 1 else origins.take(rows, axis=1)) - base)
    o = np.broadcast_to(start, d.shape)
    return rows, o, d, SHAPES[toy.shape](o, d)


def cast(scene: Scene, directions: np.ndarray) -> Surfaces:
    """First surfaces that rays from the camera meet; directions of unit length [3, R]."""
    count = directions.shape[1]
    origin = np.array([0.0, 0.0, scene.camera.height])[:, None]
    falling = directions[2] < -1e-6
    distance = np.where(falling, -origin[2] / np.where(falling, directions[2], -1.0), FAR)
    surface = np.where(falling, GROUND, SKY)
    normal = np.stack([np.zeros(count), np.zeros(count), falling.astype(np.float64)])
    if scene.wall is not None:
        to_wall = scene.wall / np.maximum(directions[1], 1e-6)
        rows = np.flatnonzero(to_wall < distance)
        distance[rows], surface[rows] = to_wall[rows], WALL
        normal[1, rows], normal[2, rows] = -1.0, 0.0
    else:
        surface[~falling & (directions[2] < paint.hill_height(scene, directions))] = HILLS
    local = origin + np.minimum(distance, 1e4) * directions
    part, covered = np.zeros(count, dtype=np.int64), []
    for index, toy in enumerate(scene.toys):
        rows, o, d, hit = _meet(toy, origin, directions)
        covered.append(int(np.count_nonzero(hit.t < FAR)))
        closer = np.flatnonzero(hit.t < distance[rows])
        rows, t = rows[closer], hit.t[closer]
        distance[rows], surface[rows], part[rows] = t, index, hit.part[closer]
        local[:, rows] = o[:, closer] + t * d[:, closer]
        normal[:, rows] = _to_world(toy, hit.normal[:, closer])
    return Surfaces(distance, surface, normal, local, part, covered)


def truth(scene: Scene) -> Truth:
    """Ground truth of a scene from one ray through the centre of every pixel."""
    camera = scene.camera
    directions = rays(camera, 1)
    seen = cast(scene, directions)
    shape = (camera.height_px, camera.width)
    c, s = np.cos(camera.pitch), np.sin(camera.pitch)
    solid = seen.distance < FAR
    forward = directions[1] * c - directions[2] * s
    n = seen.normal
    normal = np.stack([n[0], s * n[1] + c * n[2], s * n[2] - c * n[1]], axis=1)
    visible = [
        float(np.count_nonzero(seen.surface == index)) / max(count, 1)
        for index, count in enumerate(seen.covered)
    ]
    return Truth(
        surface=seen.surface.reshape(shape),
        depth=np.where(solid, seen.distance * forward, 0.0).reshape(shape),
        normal=np.where(solid[:, None], normal, 0.0).reshape(*shape, 3),
        visible=visible,
    )


def _lamps(scene: Scene) -> np.ndarray:
    """Light directions of all rays [3, R]: one of four per ray of a pixel."""
    width, height = scene.camera.width, scene.camera.height_px
    offsets = 0.035 * np.array([[-1, 0.4, -0.4, 1], [-0.4, -1, 1, 0.4], [0, 0, 0, 0]])
    lamps = np.array(scene.light)[:, None] + offsets
    lamps = lamps / np.sqrt(dot(lamps, lamps))
    return np.tile(lamps.reshape(3, 2, 2), (1, height, width)).reshape(3, -1)


def _shadow(scene: Scene, points: np.ndarray, lamps: np.ndarray) -> np.ndarray:
    """True where a toy stands between points [3, R] and their lamps."""
    hidden = np.zeros(points.shape[1], dtype=bool)
    for toy in scene.toys:
        rows, _, _, hit = _meet(toy, points, lamps)
        hidden[rows] |= hit.t < FAR
    return hidden


def _albedo(scene: Scene, seen: Surfaces, directions: np.ndarray) -> np.ndarray:
    albedo = np.zeros_like(directions)
    for surface in range(HILLS, len(scene.toys)):
        rows = np.flatnonzero(seen.surface == surface)
        p = seen.local.take(rows, axis=1)
        if surface >= 0:
            albedo[:, rows] = paint.toy_color(scene.toys[surface], p, seen.part[rows])
        elif surface == GROUND:
            albedo[:, rows] = paint.ground_color(scene, p[0], p[1])
        elif surface == WALL:
            albedo[:, rows] = paint.wall_color(scene, p[0], p[2])
        elif surface == SKY:
            albedo[:, rows] = paint.sky_color(scene, directions.take(rows, axis=1))
        else:
            albedo[:, rows] = paint.hill_color(directions[2, rows])
    return np.clip(albedo, 0, 1)


def _contact(scene: Scene, seen: Surfaces) -> np.ndarray:
    """Share of the ambient light [R] that reaches the ground beside toys, and their lowest
    parts."""
    share = np.ones(len(seen.distance))
    rows = np.flatnonzero(seen.surface == GROUND)
    x, y = seen.local[0, rows], seen.local[1, rows]
    open_sky = np.ones(len(rows))
    for toy in scene.toys:
        reach = EXTENT[toy.shape][0] * toy.size
        square = ((x - toy.position[0]) ** 2 + (y - toy.position[1]) ** 2) / (reach * reach)
        open_sky *= 1 - 0.55 / (1 + square * square)
    share[rows] = open_sky
    low = np.flatnonzero(seen.surface >= 0)
    share[low] = 0.6 + 0.4 * np.clip(seen.local[2, low] * 3, 0, 1)
    return share


def light(scene: Scene) -> Light:
    """What the camera sees of a scene, 2 x 2 rays a pixel."""
    camera = scene.camera
    directions, lamps = rays(camera, SAMPLES), _lamps(scene)
    seen = cast(scene, directions)
    direct = np.maximum(dot(seen.normal, lamps), 0.0)
    lit = np.flatnonzero((direct > 0) & (seen.distance < 40))
    toward, normal = directions.take(lit, axis=1), seen.normal.take(lit, axis=1)
    points = seen.distance[lit] * toward + 2e-3 * normal
    points[2] += camera.height
    direct[lit[_shadow(scene, points, lamps.take(lit, axis=1))]] = 0.0
    shine = np.array([toy.shine for toy in scene.toys] + [0.0])[np.maximum(seen.surface, -1)]
    rows = np.flatnonzero((shine > 0) & (direct > 0))
    half = lamps[:, rows] - directions[:, rows]
    half /= np.sqrt(dot(half, half))
    highlight = np.zeros_like(direct)
    highlight[rows] = shine[rows] * np.maximum(dot(half, seen.normal[:, rows]), 0.0) ** 40
    shape = (camera.height_px * SAMPLES, camera.width * SAMPLES)
    albedo = _albedo(scene, seen, directions)
    return Light(
        albedo=np.ascontiguousarray(albedo.T).reshape(*shape, 3),
        direct=direct.reshape(shape),
        ambient=((0.75 + 0.25 * seen.normal[2]) * _contact(scene, seen)).reshape(shape),
        highlight=highlight.reshape(shape),
        facing=np.maximum(-dot(seen.normal, directions), 0.0).reshape(shape),
        distance=seen.distance.reshape(shape),
        surface=seen.surface.reshape(shape),
        normal=seen.normal.reshape(3, *shape),
    )
