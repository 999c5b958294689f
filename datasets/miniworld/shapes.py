"""Where a ray meets a toy: eight shapes in their own coordinates, made of simple solids.

Every convex solid is a set of constraints (half-spaces, quadrics); a ray fulfils each constraint
over one span of its parameter t, and the solid is met where the latest entry lies before the
earliest exit. The ring is a torus, met by sphere tracing. Toy coordinates: z is up, the base stands
at z = 0, the height is about 1 and the half width about 0.5. R rays; origins and directions are
float64 [3, R] (one axis after the other, which numpy runs through fastest), directions need no unit
length, distances come in units of t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FAR = 1e9
TINY = 1e-12


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products of vectors [3, ...]."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


class Hit(NamedTuple):
    """First meeting of R rays with a shape."""

    t: np.ndarray  # [R], FAR where the ray misses
    normal: np.ndarray  # [3, R], outward, of any length
    part: np.ndarray  # [R], which face or which solid is met


class Span(NamedTuple):
    """One constraint: entry and exit [R] of its span, and its outward gradient at points [3, R]."""

    near: np.ndarray
    far: np.ndarray
    gradient: Callable[[np.ndarray], np.ndarray]


def plane(o: np.ndarray, d: np.ndarray, normal: tuple[float, float, float], offset: float) -> Span:
    """Half-space normal . p <= offset."""
    n = np.array(normal, dtype=np.float64)
    rate, gap = dot(n, d), offset - dot(n, o)
    t = gap / np.where(np.abs(rate) < TINY, TINY, rate)
    near = np.where(rate < 0, t, -FAR)
    far = np.where(rate < 0, FAR, t)
    return Span(near, far, lambda p: np.broadcast_to(n[:, None], p.shape))


def _roots(
    a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a = np.where(np.abs(a) < TINY, TINY, a)
    square = b * b - a * c
    root = np.sqrt(np.maximum(square, 0.0))
    first, second = (-b - root) / a, (-b + root) / a
    return np.minimum(first, second), np.maximum(first, second), square > 0


def ellipsoid(
    o: np.ndarray,
    d: np.ndarray,
    center: tuple[float, float, float],
    radii: tuple[float, float, float],
) -> Span:
    """Ellipsoid with axes along x, y, z."""
    c, r = np.array(center)[:, None], np.array(radii)[:, None]
    p, q = (o - c) / r, d / r
    near, far, met = _roots(dot(q, q), dot(p, q), dot(p, p) - 1.0)
    return Span(np.where(met, near, FAR), far, lambda x: (x - c) / (r * r))


def tube(o: np.ndarray, d: np.ndarray, radius: float) -> Span:
    """Endless cylinder around the z axis."""
    a = d[0] ** 2 + d[1] ** 2
    b = o[0] * d[0] + o[1] * d[1]
    near, far, met = _roots(a, b, o[0] ** 2 + o[1] ** 2 - radius * radius)
    return Span(np.where(met, near, FAR), far, lambda p: p * np.array([[1.0], [1.0], [0.0]]))


def funnel(o: np.ndarray, d: np.ndarray, radius: float, height: float) -> Span:
    """Cone around the z axis, ``radius`` at z = 0 and apex at ``height``, open below.

    The caller adds the planes z >= 0 and z <= ``height``.
    """
    k2 = (radius / height) ** 2
    above = height - o[2]
    a = d[0] ** 2 + d[1] ** 2 - k2 * d[2] ** 2
    b = o[0] * d[0] + o[1] * d[1] + k2 * above * d[2]
    near, far, met = _roots(a, b, o[0] ** 2 + o[1] ** 2 - k2 * above**2)
    # A ray steeper than the cone is inside before the first and after the second root: one of the
    # two pieces belongs to the mirrored cone above the apex.
    steep, falling = a < 0, d[2] < 0
    entry = np.where(steep, np.where(falling, far, -FAR), np.where(met, near, FAR))
    leave = np.where(steep, np.where(falling, FAR, near), far)

    def gradient(p: np.ndarray) -> np.ndarray:
        return np.stack([p[0], p[1], k2 * (height - p[2])])

    return Span(entry, leave, gradient)


def convex(o: np.ndarray, d: np.ndarray, spans: list[Span]) -> Hit:
    """Meet all constraints at once; ``part`` tells whose surface is met."""
    near = np.stack([span.near for span in spans])
    part = near.argmax(0)
    t = near.max(0)
    far = np.min(np.stack([span.far for span in spans]), axis=0)
    met = (t < far) & (t > 1e-4)
    points = o + np.where(met, t, 0.0) * d
    normal = np.zeros_like(points)
    for index, span in enumerate(spans):
        rays = np.flatnonzero((part == index) & met)
        normal[:, rays] = span.gradient(points.take(rays, axis=1))
    return Hit(np.where(met, t, FAR), normal, part)


def nearest(*hits: Hit) -> Hit:
    """Union of solids: the nearer meeting wins; ``part`` is the index of the solid."""
    t, normal, part = hits[0].t, hits[0].normal, np.zeros_like(hits[0].part)
    for index, hit in enumerate(hits[1:], start=1):
        closer = hit.t < t
        t = np.where(closer, hit.t, t)
        normal = np.where(closer, hit.normal, normal)
        part = np.where(closer, index, part)
    return Hit(t, normal, part)


def ball(o: np.ndarray, d: np.ndarray) -> Hit:
    return convex(o, d, [ellipsoid(o, d, (0, 0, 0.5), (0.5, 0.5, 0.5))])


def cone(o: np.ndarray, d: np.ndarray) -> Hit:
    spans = [funnel(o, d, 0.48, 1.1), plane(o, d, (0, 0, -1), 0.0), plane(o, d, (0, 0, 1), 1.1)]
    return convex(o, d, spans)


def crate(o: np.ndarray, d: np.ndarray) -> Hit:
    sides = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)]
    spans = [plane(o, d, side, 0.46) for side in sides]
    return convex(o, d, [*spans, plane(o, d, (0, 0, 1), 0.9), plane(o, d, (0, 0, -1), 0.0)])


def drum(o: np.ndarray, d: np.ndarray) -> Hit:
    spans = [tube(o, d, 0.42), plane(o, d, (0, 0, 1), 1.0), plane(o, d, (0, 0, -1), 0.0)]
    return convex(o, d, spans)


def gem(o: np.ndarray, d: np.ndarray) -> Hit:
    """Six-sided cut stone: a point below, a girdle at two thirds, a flat table on top."""
    spans = [plane(o, d, (0, 0, 1), 0.95)]
    for index in range(6):
        angle = np.pi / 6 + index * np.pi / 3
        x, y = np.cos(angle), np.sin(angle)
        spans.append(plane(o, d, (x, y, -0.726), 0.0))
        spans.append(plane(o, d, (x, y, 0.606), 0.826))
    return convex(o, d, spans)


def house(o: np.ndarray, d: np.ndarray) -> Hit:
    """Walls with a saddle roof whose gable looks to -y; parts 0 and 1 are the roof."""
    spans = [plane(o, d, (0.45, 0, 0.5), 0.5), plane(o, d, (-0.45, 0, 0.5), 0.5)]
    spans += [plane(o, d, (1, 0, 0), 0.46), plane(o, d, (-1, 0, 0), 0.46)]
    spans += [plane(o, d, (0, 1, 0), 0.42), plane(o, d, (0, -1, 0), 0.42)]
    return convex(o, d, [*spans, plane(o, d, (0, 0, -1), 0.0)])


def mushroom(o: np.ndarray, d: np.ndarray) -> Hit:
    """Part 0 is the cap, part 1 the stem."""
    cap = [ellipsoid(o, d, (0, 0, 0.45), (0.52, 0.52, 0.5)), plane(o, d, (0, 0, -1), -0.45)]
    stem = [tube(o, d, 0.17), plane(o, d, (0, 0, 1), 0.5), plane(o, d, (0, 0, -1), 0.0)]
    return nearest(convex(o, d, cap), convex(o, d, stem))


RING_RADIUS, RING_TUBE = 0.34, 0.155


def ring(o: np.ndarray, d: np.ndarray) -> Hit:
    """Standing torus whose hole looks along y, met by sphere tracing."""
    middle = (0.0, 0.0, RING_RADIUS + RING_TUBE)
    o = o - np.array(middle)[:, None]
    length = np.sqrt(dot(d, d))
    step = d / length
    bound = ellipsoid(o, d, (0.0, 0.0, 0.0), (0.5, 0.5, 0.5))
    t = np.maximum(bound.near, 1e-3) * length
    stop = bound.far * length
    result = np.full(len(t), FAR)
    active = np.flatnonzero(t < stop)
    for _ in range(40):
        p = o[:, active] + t[active] * step[:, active]
        around = np.sqrt(p[0] ** 2 + p[2] ** 2) - RING_RADIUS
        gap = np.sqrt(around**2 + p[1] ** 2) - RING_TUBE
        touched = gap < 5e-4
        result[active[touched]] = t[active[touched]]
        t[active] += gap
        active = active[~touched & (t[active] < stop[active])]
        if not len(active):
            break
    met = result < FAR
    p = o + np.where(met, result, 0.0) * step
    onto = RING_RADIUS / np.maximum(np.sqrt(p[0] ** 2 + p[2] ** 2), TINY)
    normal = np.stack([p[0] * (1 - onto), p[1], p[2] * (1 - onto)])
    return Hit(np.where(met, result / length, FAR), normal, np.zeros(len(t), dtype=np.int64))


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], Hit]] = {
    "ball": ball,
    "cone": cone,
    "crate": crate,
    "drum": drum,
    "gem": gem,
    "house": house,
    "mushroom": mushroom,
    "ring": ring,
}

# Half width and height of each shape, for placing and for the bounding sphere.
EXTENT = {
    "ball": (0.5, 1.0),
    "cone": (0.48, 1.1),
    "crate": (0.6, 0.9),
    "drum": (0.42, 1.0),
    "gem": (0.52, 0.95),
    "house": (0.56, 1.0),
    "mushroom": (0.52, 0.95),
    "ring": (0.495, 0.99),
}
