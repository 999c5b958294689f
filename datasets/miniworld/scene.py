"""What stands where: camera, light, ground, background and toys of one scene, drawn at random.

World coordinates are metres: x to the right, y away from the camera, z up, the ground is z = 0.
Camera coordinates of a pixel are (u, v) from the top left corner, its centre at (u + 0.5, v + 0.5).
Toys are placed by the pixel of their base, so that they are large enough to be seen and seldom hide
each other.
"""

from __future__ import annotations

import colorsys
import dataclasses
import math

import numpy as np

from .shapes import EXTENT

CLASSES = ("ball", "cone", "crate", "drum", "gem", "house", "mushroom", "ring")
# Semantic classes in the order of their ids; "other" (far hills) is not one of them.
STUFF = ("ground", "sky", "wall", *CLASSES)

# class -> usual pattern, usual colours (hue, saturation, value) of the base and of the pattern
TYPICAL = {
    "ball": ("segments", (0.0, 0.85, 0.85), (0.13, 0.15, 0.97)),
    "cone": ("bands", (0.07, 0.95, 0.95), (0.1, 0.05, 0.97)),
    "crate": ("planks", (0.085, 0.6, 0.62), (0.07, 0.65, 0.32)),
    "drum": ("rims", (0.55, 0.8, 0.65), (0.12, 0.6, 0.9)),
    "gem": ("facets", (0.77, 0.75, 0.8), (0.72, 0.25, 1.0)),
    "house": ("facade", (0.12, 0.3, 0.92), (0.02, 0.65, 0.62)),
    "mushroom": ("dots", (0.985, 0.8, 0.75), (0.12, 0.12, 0.95)),
    "ring": ("sprinkles", (0.9, 0.45, 0.9), (0.5, 0.6, 0.95)),
}
FREE_PATTERNS = ("plain", "bands", "checks", "dots", "marble")
GROUNDS = ("grass", "boards", "tiles", "sand", "asphalt", "carpet")
WALLS = ("paper", "bricks", "plaster")
FURTHEST = 20.0


@dataclasses.dataclass
class Toy:
    """One object and its paint."""

    shape: str
    position: tuple[float, float]  # (x, y) of its base on the ground
    size: float  # metres per unit of toy coordinates
    yaw: float  # radians around z
    pattern: str
    color: tuple[float, float, float]  # RGB in [0, 1]
    color2: tuple[float, float, float]  # that of the pattern
    shine: float  # strength of the highlight
    pile: bool = False  # member of a heap that is annotated as one crowd


@dataclasses.dataclass
class Camera:
    """Pinhole at (0, 0, height), tilted down by ``pitch`` radians; focal length in pixels."""

    width: int
    height_px: int
    focal: float
    height: float
    pitch: float

    def project(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Pixel (u, v) and depth in metres of a point in the world."""
        c, s = math.cos(self.pitch), math.sin(self.pitch)
        depth = c * y - s * (z - self.height)
        down = -c * (z - self.height) - s * y
        u = self.width / 2 + self.focal * x / depth
        return u, self.height_px / 2 + self.focal * down / depth, depth

    def ground_at(self, u: float, v: float) -> tuple[float, float] | None:
        """The point (x, y) of the ground seen at a pixel, None above the horizon."""
        c, s = math.cos(self.pitch), math.sin(self.pitch)
        right, down = (u - self.width / 2) / self.focal, (v - self.height_px / 2) / self.focal
        forward, up = c - s * down, -s - c * down
        if up >= -1e-6:
            return None
        return right * self.height / -up, forward * self.height / -up


@dataclasses.dataclass
class Scene:
    """Everything a picture is made from."""

    camera: Camera
    toys: list[Toy]
    light: tuple[float, float, float]  # unit vector towards the lamp
    ground: str  # one of GROUNDS
    ground_color: tuple[float, float, float]
    wall: float | None  # its distance, None under the open sky
    wall_pattern: str  # one of WALLS
    wall_color: tuple[float, float, float]
    sky_hue: float
    offset: tuple[float, float]  # moves the textures, so that no two grounds are alike


def rgb(hsv: tuple[float, float, float]) -> tuple[float, float, float]:
    """RGB of hue, saturation and value, all in [0, 1]; the hue wraps around."""
    h, s, v = hsv
    return colorsys.hsv_to_rgb(h % 1.0, min(max(s, 0.0), 1.0), min(max(v, 0.0), 1.0))


def _jitter(rng: np.random.Generator, hsv: tuple[float, float, float], free: bool) -> tuple:
    h, s, v = hsv
    hue = rng.uniform() if free else h + rng.normal(0, 0.02)
    return rgb((hue, s + rng.normal(0, 0.08), v + rng.normal(0, 0.06)))


def draw_toy(
    rng: np.random.Generator, shape: str, position: tuple[float, float], size: float
) -> Toy:
    """Paint a toy: four in five wear the colours of their class, and as many its pattern."""
    pattern, base, second = TYPICAL[shape]
    free_color, free_pattern = rng.uniform() < 0.2, rng.uniform() < 0.2
    if free_pattern and shape != "house":
        pattern = str(rng.choice(FREE_PATTERNS))
    return Toy(
        shape=shape,
        position=position,
        size=size,
        yaw=rng.uniform(-0.95, 0.95),
        pattern=pattern,
        color=_jitter(rng, base, free_color),
        color2=_jitter(rng, second, free_color),
        shine=0.9 if shape == "gem" else float(rng.choice([0.0, 0.25, 0.6])),
    )


def draw_camera(rng: np.random.Generator, view: str, width: int, height: int) -> Camera:
    """Draw the camera of a view.

    "street" and "crop" look from eye level, "aerial" from above; "road" looks from eye level too,
    but with one lens at one height, so that metres can be told from pixels.
    """
    if view == "road":
        focal = 1.1 * height
        return Camera(
            width, height, focal, 1.65, math.atan(rng.uniform(0.16, 0.24) * height / focal)
        )
    focal = height * rng.uniform(1.05, 1.2)
    if view == "aerial":
        return Camera(
            width, height, focal, rng.uniform(4.6, 6.0), math.radians(rng.uniform(52, 68))
        )
    level = rng.uniform(0.24, 0.36)
    pitch = math.atan((0.5 - level) * height / focal)
    return Camera(width, height, focal, rng.uniform(1.3, 1.9), pitch)


def _extent(camera: Camera, toy: Toy) -> tuple[float, float, float, float]:
    half, tall = EXTENT[toy.shape]
    u, bottom, depth = camera.project(*toy.position, 0.0)
    _, top, _ = camera.project(*toy.position, tall * toy.size)
    reach = half * toy.size * camera.focal / depth
    lean = 0.5 * reach * math.sin(camera.pitch)
    return u - reach, min(top, bottom) - lean, u + reach, bottom + lean


def _fits(camera: Camera, toy: Toy, others: list[Toy], share: tuple[float, float]) -> bool:
    x0, y0, x1, y1 = _extent(camera, toy)
    if not share[0] <= max(y1 - y0, x1 - x0) / camera.height_px <= share[1]:
        return False
    inside = (min(x1, camera.width) - max(x0, 0)) * (min(y1, camera.height_px) - max(y0, 0))
    if inside < 0.85 * (x1 - x0) * (y1 - y0):
        return False
    for other in others:
        gap = math.dist(toy.position, other.position)
        if gap < EXTENT[toy.shape][0] * toy.size + EXTENT[other.shape][0] * other.size:
            return False
        a0, b0, a1, b1 = _extent(camera, other)
        wide, tall = min(x1, a1) - max(x0, a0), min(y1, b1) - max(y0, b0)
        smaller = min((x1 - x0) * (y1 - y0), (a1 - a0) * (b1 - b0))
        if wide > 0 and tall > 0 and wide * tall > 0.4 * smaller:
            return False
    return True


def _place(
    rng: np.random.Generator, camera: Camera, view: str, shape: str, others: list[Toy]
) -> Toy | None:
    view = "street" if view == "road" else view
    rows = {"street": (0.5, 0.96), "aerial": (0.22, 0.92), "crop": (0.8, 0.92)}[view]
    columns = (0.42, 0.58) if view == "crop" else (0.06, 0.94)
    share = {"street": (0.2, 0.62), "aerial": (0.2, 0.5), "crop": (0.55, 0.95)}[view]
    for _ in range(30):
        u = rng.uniform(*columns) * camera.width
        v = rng.uniform(*rows) * camera.height_px
        spot = camera.ground_at(u, v)
        if spot is None:
            continue
        size = rng.uniform(0.9, 1.6)
        if view == "crop":
            depth = camera.project(*spot, 0.0)[2]
            size = rng.uniform(0.55, 0.72) * camera.height_px * depth / camera.focal
        toy = draw_toy(rng, shape, spot, size)
        if _fits(camera, toy, others, share):
            return toy
    return None


def _pile(rng: np.random.Generator, camera: Camera, others: list[Toy]) -> list[Toy]:
    shape = str(rng.choice(CLASSES))
    for _ in range(20):
        u = rng.uniform(0.25, 0.75) * camera.width
        middle = camera.ground_at(u, rng.uniform(0.5, 0.6) * camera.height_px)
        if middle is None:
            continue
        spots = [(middle[0] + 0.5 * (i % 4 - 1.5), middle[1] + 0.55 * (i // 4)) for i in range(8)]
        heap = [
            dataclasses.replace(draw_toy(rng, shape, spot, rng.uniform(0.38, 0.48)), pile=True)
            for spot in spots
        ]
        if all(_fits(camera, toy, others, (0.0, 0.3)) for toy in heap):
            return heap
    return []


def draw_scene(
    rng: np.random.Generator,
    view: str,
    width: int,
    height: int,
    shapes: list[str],
    pile: bool = False,
) -> Scene:
    """Draw a scene with one toy per entry of ``shapes`` (those that find no place are left out).

    Args:
        rng: generator that belongs to this scene alone.
        view: "street", "road", "aerial" or "crop".
        width, height: picture in pixels.
        shapes: classes of the toys.
        pile: also a heap of eight small toys of one class.
    """
    camera = draw_camera(rng, view, width, height)
    toys = _pile(rng, camera, []) if pile else []
    for shape in shapes:
        toy = _place(rng, camera, view, shape, toys)
        if toy is not None:
            toys.append(toy)
    ground = str(rng.choice(GROUNDS if view != "aerial" else ("grass", "sand", "asphalt")))
    hue = {"grass": 0.27, "boards": 0.08, "sand": 0.11, "asphalt": 0.6}.get(ground, rng.uniform())
    saturation = {"grass": 0.5, "boards": 0.5, "sand": 0.35, "asphalt": 0.05}.get(ground, 0.3)
    value = rng.uniform(0.4, 0.6) if ground != "sand" else rng.uniform(0.7, 0.85)
    indoors = view != "aerial" and (ground in ("boards", "tiles", "carpet") or rng.uniform() < 0.2)
    furthest = max((toy.position[1] + toy.size for toy in toys), default=6.0)
    side = rng.choice([-1.0, 1.0])
    direction = np.array(
        [side * rng.uniform(0.35, 1.0), -rng.uniform(0.25, 0.95), rng.uniform(0.8, 1.4)]
    )
    direction /= math.hypot(*direction)
    return Scene(
        camera=camera,
        toys=toys,
        light=tuple(float(value) for value in direction),
        ground=ground,
        ground_color=rgb((hue + rng.normal(0, 0.015), saturation + rng.normal(0, 0.05), value)),
        wall=max(furthest, 5.0) + rng.uniform(0.4, 3.0) if indoors else None,
        wall_pattern=str(rng.choice(WALLS)),
        wall_color=rgb((rng.uniform(), rng.uniform(0.08, 0.3), rng.uniform(0.7, 0.92))),
        sky_hue=rng.uniform(0.53, 0.62),
        offset=(float(rng.uniform(0, 50)), float(rng.uniform(0, 50))),
    )
