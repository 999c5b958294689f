"""The domains: one function per picture style, from the light of a scene to an RGB picture.

``photo`` (also for aerial views), ``poster`` (flat tones, outlines, halftone shadows), ``drawing``
(ink lines and hatching on paper, sometimes a pale wash) and ``night`` (an infrared lamp beside the
camera). The style says nothing about the classes. Each takes the Light of a scene [2H, 2W] and a
generator and returns uint8 [H, W, 3].
"""

from __future__ import annotations

import cv2
import numpy as np

from .paint import noise_patch
from .render import GROUND, HILLS, SKY, Light
from .shapes import dot


def _shrink(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    rows = picture[0::2] + picture[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]).reshape(height, width, -1) / 4


def _finish(picture: np.ndarray, rng: np.random.Generator, grain: float) -> np.ndarray:
    picture = picture + rng.normal(0, grain, picture.shape)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _vignette(shape: tuple[int, int], strength: float) -> np.ndarray:
    y = np.linspace(-1, 1, shape[0])[:, None]
    x = np.linspace(-1, 1, shape[1])[None, :]
    return (1 - strength * (x * x + y * y) / 2)[..., None]


def _open(light: Light) -> np.ndarray:
    return (light.surface == SKY) | (light.surface == HILLS)


def edges(light: Light, crease: float) -> np.ndarray:
    """Contours [2H, 2W] in {0, 1}.

    A contour runs where the surface changes and, on a toy, where the depth jumps or the normals of
    neighbours differ by more than ``crease`` (1 - cosine).
    """
    result = np.zeros(light.surface.shape)
    near = 1 / np.minimum(light.distance, 1e3)
    for axis in (0, 1):
        ahead = [slice(None)] * 2
        here = [slice(None)] * 2
        ahead[axis], here[axis] = slice(1, None), slice(None, -1)
        a, b = tuple(ahead), tuple(here)
        change = light.surface[a] != light.surface[b]
        toys = (light.surface[a] >= 0) & (light.surface[b] >= 0)
        bend = 1 - dot(light.normal[(slice(None), *a)], light.normal[(slice(None), *b)]) > crease
        jump = np.abs(near[a] - near[b]) > 0.06 * np.maximum(near[a], near[b])
        mark = change | (toys & (bend | jump))
        result[b] = np.maximum(result[b], mark)
        result[a] = np.maximum(result[a], mark)
    return result


def photo(light: Light, rng: np.random.Generator) -> np.ndarray:
    """Sun and sky light, haze, white balance, vignette, lens blur and sensor noise."""
    sun = np.array([1.0, 0.95, 0.86]) * rng.uniform(0.75, 1.0)
    sky = np.array([0.84, 0.92, 1.0]) * rng.uniform(0.42, 0.58)
    albedo = np.square(light.albedo)
    picture = albedo * (light.direct[..., None] * sun * 1.25 + light.ambient[..., None] * sky)
    picture += 0.8 * light.highlight[..., None] * sun
    haze = (1 - np.exp(-np.minimum(light.distance, 200) / rng.uniform(70, 200)))[..., None]
    picture = picture * (1 - haze) + np.array([0.66, 0.73, 0.8]) * haze
    picture[_open(light)] = np.square(light.albedo[_open(light)])
    picture = _shrink(picture)
    picture = cv2.GaussianBlur(picture, (3, 3), rng.uniform(0.25, 0.55))
    balance = 1 + rng.normal(0, 0.03, 3)
    picture = np.sqrt(np.clip(picture * rng.uniform(1.0, 1.3) * balance, 0, None))
    return _finish(
        picture * _vignette(picture.shape, rng.uniform(0.0, 0.3)), rng, rng.uniform(0.005, 0.02)
    )


def poster(light: Light, rng: np.random.Generator) -> np.ndarray:
    """Three flat tones of saturated colours, halftone dots in the shadow, dark outlines."""
    grey = light.albedo.mean(-1, keepdims=True)
    color = np.clip(grey + 1.6 * (light.albedo - grey), 0, 1)
    color = np.round(color * 5) / 5
    y, x = np.indices(light.direct.shape)
    dots = (np.sin((x + y) * 0.9) * np.sin((x - y) * 0.9)) > -0.1
    tone = np.where(light.direct > 0.62, 1.0, np.where(light.direct > 0.2, 0.84, 0.0))
    tone = np.where(tone == 0.0, np.where(dots, 0.52, 0.72), tone)
    tone[_open(light)] = 1.0
    picture = np.where((light.highlight > 0.25)[..., None], 1.0, color * tone[..., None])
    ink = cv2.dilate(edges(light, 0.35), np.ones((2, 2)))[..., None]
    picture = picture * (1 - ink) + np.array([0.1, 0.08, 0.16]) * ink
    return _finish(_shrink(picture) * 0.96 + 0.02, rng, 0.004)


def drawing(light: Light, rng: np.random.Generator) -> np.ndarray:
    """Ink contours and hatching on paper; in two of three pictures a pale wash of colour."""
    height, width = light.direct.shape
    y, x = np.indices((height, width))
    tone = light.direct * 0.8 + light.ambient * 0.3
    tone[_open(light)] = 1.0
    wobble = 3 * noise_patch(height, width, 0)
    slope = rng.uniform(0.7, 1.4)
    first = np.sin((x + slope * y + wobble) * 0.95) > 0.45
    second = np.sin((x - slope * y + wobble) * 0.95) > 0.45
    toys = light.surface >= 0
    floor = light.surface == GROUND
    hatch = 0.6 * ((tone < 0.62) & first & (toys | floor)) + 0.6 * ((tone < 0.3) & second & toys)
    dark = light.albedo.mean(-1)
    relief = np.abs(cv2.Laplacian(cv2.GaussianBlur(dark, (3, 3), 0.8), cv2.CV_64F)) * toys
    ink = np.clip(
        np.maximum(edges(light, 0.12), np.maximum(hatch, np.clip(relief * 5 - 0.2, 0, 0.7))), 0, 1
    )
    fibre = noise_patch(height, width, int(rng.integers(0, 400)))
    paper = np.array([0.97, 0.955, 0.91]) * (0.94 + 0.08 * fibre)[..., None]
    if rng.uniform() < 0.66:
        strength = rng.uniform(0.35, 0.55) * (0.75 + 0.5 * fibre)[..., None]
        paper = paper * (1 - strength) + paper * np.clip(light.albedo * 1.15, 0, 1) * strength
    inks = ([0.12, 0.11, 0.13], [0.12, 0.16, 0.36], [0.28, 0.16, 0.09])
    picture = paper * (1 - ink[..., None]) + np.array(inks[int(rng.integers(3))]) * ink[..., None]
    return _finish(_shrink(picture), rng, 0.006)


def night(light: Light, rng: np.random.Generator) -> np.ndarray:
    """An infrared lamp beside the camera: falls off with the distance, glows, is green or grey, and
    noisy."""
    bright = light.albedo @ np.array([0.5, 0.3, 0.2])
    reach = rng.uniform(5, 8)
    lamp = 1 / (1 + (light.distance / reach) ** 2)
    picture = (0.15 + bright) * (0.25 + 0.9 * light.facing) * lamp * 1.5
    picture += 0.06 * bright * light.ambient + 0.5 * light.highlight
    picture[_open(light)] = 0.05 + 0.04 * bright[_open(light)]
    picture = _shrink(np.clip(picture, 0, 1.2))[..., 0]
    glow = cv2.GaussianBlur(np.maximum(picture - 0.55, 0), (0, 0), 3.0)
    picture = np.clip(picture + 0.8 * glow, 0, 1) ** 0.75
    tint = np.array([0.45, 1.0, 0.55]) if rng.uniform() < 0.5 else np.array([0.92, 0.95, 1.0])
    picture = picture[..., None] * tint * _vignette(picture.shape, 0.55)
    grain = rng.normal(0, 0.03, picture.shape[:2])[..., None] * tint
    return _finish(picture + grain + 0.02 * tint, rng, 0.004)


STYLES = {"photo": photo, "poster": poster, "drawing": drawing, "night": night}
