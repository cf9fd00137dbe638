"""A picture under construction: colours, train ids and depth, and the pinhole camera that looks at it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Colour = tuple[float, float, float]

FAR = 1e6
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above the plane Y = 0, looking along +Z.

    width, height, focal: pixels. horizon: its row. x, up: position in metres. yaw: radians, to the right.
    """

    width: int
    height: int
    focal: float
    horizon: float
    x: float
    up: float
    yaw: float

    def columns(self) -> tuple[Array, Array]:
        """World (dX, dZ) of the ray through each column at camera depth 1: two (W,) arrays."""
        u = (np.arange(self.width, dtype=np.float32) + 0.5 - self.width / 2) / self.focal
        sin, cos = np.float32(np.sin(self.yaw)), np.float32(np.cos(self.yaw))
        return cos * u + sin, cos - sin * u

    def rows(self) -> Array:
        """Fall of the ray through each row at camera depth 1: (H,), negative above the horizon."""
        return (np.arange(self.height, dtype=np.float32) + 0.5 - self.horizon) / np.float32(self.focal)

    def project(self, points: NDArray[np.floating]) -> tuple[Array, Array]:
        """Pixels (N, 2) and depths (N,) of world points (N, 3) = (X, Y up, Z), in metres."""
        offset = points[:, 0] - self.x
        sin, cos = np.sin(self.yaw), np.cos(self.yaw)
        depth = sin * offset + cos * points[:, 2]
        across = cos * offset - sin * points[:, 2]
        safe = np.maximum(depth, 0.05)
        pixels = np.stack(
            [self.width / 2 + self.focal * across / safe, self.horizon + self.focal * (self.up - points[:, 1]) / safe], axis=1
        )
        return pixels.astype(np.float32), depth.astype(np.float32)


class Canvas:
    """Colours (H, W, 3) float32 RGB 0..255, train ids (H, W) uint8 and camera depths (H, W) float32 in metres."""

    def __init__(self, height: int, width: int) -> None:
        self.image = np.zeros((height, width, 3), np.float32)
        self.label = np.zeros((height, width), np.uint8)
        self.depth = np.full((height, width), FAR, np.float32)

    def surface(self, columns: slice, mask: NDArray[np.bool_], colour: Array, depth: Array, label: int, rows: slice = slice(None)) -> None:
        """Put the pixels of ``mask`` (rows, columns) that are nearer than what is there."""
        seen = mask & (depth < self.depth[rows, columns])
        self.image[rows, columns][seen] = np.broadcast_to(colour, (*seen.shape, 3))[seen]
        self.depth[rows, columns][seen] = np.broadcast_to(depth, seen.shape)[seen]
        self.label[rows, columns][seen] = label

    def polygon(
        self, points: NDArray[np.floating], depth: float, colour: Colour, label: int, grain: float = 0.0, dark: float = 0.0
    ) -> None:
        """Fill a polygon of pixel points (N, 2) standing at ``depth``, antialiased, hidden by what is nearer.

        grain: strength of texture 0..1; dark: how much darker its foot is than its top, 0..1.
        """
        height, width = self.label.shape
        left, top = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(points.max(0)).astype(int) + 2, (width, height))
        if right <= left or bottom <= top:
            return
        cover = np.zeros((bottom - top, right - left), np.uint8)
        fixed = np.round(np.clip(points - (left, top), -9000, 9000) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(cover, [fixed], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        box = np.s_[top:bottom, left:right]
        alpha = cover * ((depth <= self.depth[box]) / np.float32(255))
        shade = 1 - dark * np.linspace(0, 1, bottom - top, dtype=np.float32)[:, None]
        if grain:
            shade = shade * (1 + grain * (noise_window(bottom - top, right - left, left * 7 + top * 13) - 0.5))
        paint = np.multiply.outer(np.broadcast_to(shade, alpha.shape), np.asarray(colour, np.float32))
        self.image[box] += alpha[..., None] * (paint - self.image[box])
        solid = alpha > 0.45
        self.label[box][solid] = label
        self.depth[box][solid] = depth


@cache
def noise_texture() -> Array:
    """A tileable (512, 512) texture of several octaves in 0..1, always the same."""
    rng = np.random.default_rng(20)
    size = 512
    total: Array = np.zeros((size, size), np.float32)
    for octave in range(2, 10):
        cells = 1 << octave
        coarse = np.pad(rng.random((cells, cells), np.float32), 2, mode="wrap")
        step = size // cells
        fine = cv2.resize(coarse, ((cells + 4) * step,) * 2, interpolation=cv2.INTER_CUBIC)
        total = total + fine[2 * step : -2 * step, 2 * step : -2 * step] * np.float32(0.62**octave)
    return (total - total.min()) / (total.max() - total.min())


def noise_at(u: Array, v: Array) -> Array:
    """The noise texture at (u, v) texels, repeated without end; same shape as ``u``."""
    return noise_texture()[v.astype(np.int32) & 511, u.astype(np.int32) & 511]


def noise_window(height: int, width: int, start: int) -> Array:
    """A (height, width) piece of the noise texture."""
    rows = (np.arange(height) + start) & 511
    return noise_texture()[rows[:, None], ((np.arange(width) + start // 3) & 511)[None]]


def hash01(*keys: Array) -> Array:
    """A repeatable pseudo-random number 0..1 of integer-valued keys."""
    total: Array = np.zeros(np.broadcast(*keys).shape, np.float32)
    for key, factor in zip(keys, (12.9898, 78.233, 37.719), strict=False):
        total = total + np.floor(key) * np.float32(factor)
    return np.modf(np.abs(np.sin(total)) * np.float32(4375.85))[0]
