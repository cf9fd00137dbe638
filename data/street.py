"""The large surfaces of the rendered street: sky, skyline, ground, facades and fences, cast ray by ray."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segc.data.canvas import FAR, Array, Camera, Canvas, Colour, hash01, noise_at
from segc.data.spec import known_specs

CLASSES = known_specs()["camvid"].classes
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(len(CLASSES))
VOID = 255


@dataclass(frozen=True)
class Building:
    """A box on one side of the street: along Z from ``start`` to ``end``, ``top`` metres high."""

    side: int
    start: float
    end: float
    top: float
    wall: Colour
    window: tuple[float, float]
    shop: bool
    seed: float


@dataclass(frozen=True)
class Light:
    """Weather: brightness of faces towards -X, +X and the camera, sky colours, fog density (1/m), sun side (0 = none)."""

    left: float
    right: float
    front: float
    zenith: Colour
    haze: Colour
    clouds: float
    fog: float
    sun: int


@dataclass(frozen=True)
class Street:
    """The plan: half widths of the road and of the space between the facades, crossings as (start, end) along Z, and what stands there."""

    road: float
    wall: float
    crossings: tuple[tuple[float, float], ...]
    buildings: tuple[Building, ...]
    fences: tuple[tuple[int, float, float, bool], ...]
    zebra: float
    grey: float
    skyline: int


def paint_sky(canvas: Canvas, camera: Camera, light: Light, rng: np.random.Generator) -> None:
    """Gradient and clouds over the whole canvas."""
    height, width = canvas.label.shape
    rise = np.clip(-camera.rows(), 0.0, 1.0)[:, None]
    mix = np.clip(1 - rise * 2.2, 0, 1)[..., None] ** 1.5
    sky = mix * np.asarray(light.haze, np.float32) + (1 - mix) * np.asarray(light.zenith, np.float32)
    u = np.arange(width, dtype=np.float32)[None] * 0.35 / (rise + 0.35) + rng.uniform(0, 512)
    v = 90 / (rise + 0.25) + np.float32(rng.uniform(0, 512))
    cloud = np.clip((noise_at(u, np.broadcast_to(v, (height, width))) - 0.62 + light.clouds * 0.4) * 3.0, 0, 0.9)[..., None]
    canvas.image[:] = sky * (1 - cloud) + cloud * np.asarray(light.haze, np.float32) * 1.03


def paint_skyline(canvas: Canvas, camera: Camera, street: Street, rng: np.random.Generator) -> None:
    """A far row of trees or houses that closes the view."""
    dx, dz = camera.columns()
    along = np.arctan2(dx, dz) * 160 + np.float32(rng.uniform(0, 512))
    if street.skyline == TREE:
        top = 4 + 9 * noise_at(along * 2, np.full_like(along, 7)) + 1.5 * noise_at(along * 9, np.full_like(along, 70))
        colour: Colour = (52, 66, 40)
    else:
        top = 5 + 12 * hash01(along / 14)
        colour = (112, 100, 92)
    depth = np.full_like(dx, 140)
    above = np.float32(camera.up) - depth[None] * camera.rows()[:, None]
    grain = 0.75 + 0.5 * noise_at(np.broadcast_to(along * 6, above.shape), above * 14)
    everything = slice(0, camera.width)
    canvas.surface(everything, (above > 0) & (above < top), grain[..., None] * np.asarray(colour, np.float32), depth[None], street.skyline)


def paint_ground(canvas: Canvas, camera: Camera, street: Street, light: Light) -> None:
    """Road with markings, kerbs, pavement and the shadows of the houses, below the horizon."""
    fall = camera.rows()
    first = int(np.argmax(fall > 0.004))
    dx, dz = camera.columns()
    depth = np.float32(camera.up) / fall[first:, None]
    x, z = np.float32(camera.x) + depth * dx, depth * dz
    fade = np.exp(-depth / 25)
    crossing = _in_crossing(z, street)
    road = (np.abs(x) < street.road) | crossing
    rough = noise_at(x * 70, z * 70) - 0.5
    wear = noise_at(x * 9, z * 2 + 100) - 0.5
    asphalt = street.grey * (1 + 0.5 * fade * rough + 0.25 * wear)
    colour = asphalt[..., None] * np.asarray((0.98, 0.99, 1.03), np.float32)
    slabs = _pavement_shade(x, z, fade, rough, street)
    colour = np.where(road[..., None], colour, slabs[..., None] * np.asarray((1.03, 1.0, 0.95), np.float32))
    marks = road & _markings(x, z, crossing, street) & (wear > -0.28)
    colour[marks] = colour[marks] * 0.25 + 165
    colour *= _ground_light(x, z, street, light)[..., None]
    canvas.image[first:] = colour
    canvas.depth[first:] = depth
    canvas.label[first:] = np.where(road, ROAD, PAVEMENT)


def paint_building(canvas: Canvas, camera: Camera, street: Street, building: Building, light: Light) -> None:
    """The face of a building towards the street and the one towards the camera."""
    dx, dz = camera.columns()
    with np.errstate(divide="ignore", invalid="ignore"):
        side = (building.side * street.wall - camera.x) / dx
        front = building.start / dz
    face = light.left if building.side > 0 else light.right
    _face(canvas, camera, building, side, side * dz, (building.start, building.end), face)
    across = np.abs(camera.x + front * dx)
    same_side = np.sign(camera.x + front * dx) == building.side
    _face(canvas, camera, building, np.where(same_side, front, -1.0), across, (street.wall, street.wall + 14), light.front)


def paint_fence(
    canvas: Canvas, camera: Camera, street: Street, fence: tuple[int, float, float, bool], colour: Colour, light: Light
) -> None:
    """A railing of thin bars, or a closed fence, along the inner edge of the pavement: (side, start, end, railing)."""
    side, start, end, railing = fence
    dx, dz = camera.columns()
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (side * (street.road + 0.35) - camera.x) / dx
    along = depth * dz
    columns = _span((depth > 0.4) & (along > start) & (along < end))
    if columns is None:
        return
    t, z = depth[columns][None], along[columns][None]
    above = np.float32(camera.up) - t * camera.rows()[:, None]
    inside = (above > 0) & (above < 1.15) & (z > start) & (z < end)
    grain = 0.85 + 0.3 * noise_at(z * 60, above * 60)
    if railing:
        bars = (np.mod(z, 0.5) < 0.08) | (np.abs(above - 1.08) < 0.06) | (np.abs(above - 0.2) < 0.05) | (np.mod(z, 2.5) < 0.16)
        inside &= bars
    else:
        grain = grain * np.where(np.mod(z, 0.3) < 0.04, 0.6, 1.0)
    face = light.left if side > 0 else light.right
    canvas.surface(columns, inside, (grain * face)[..., None] * np.asarray(colour, np.float32), t, FENCE)


def _face(canvas: Canvas, camera: Camera, building: Building, depth: Array, along: Array, span: tuple[float, float], light: float) -> None:
    columns = _span((depth > 0.5) & (along > span[0]) & (along < span[1]))
    if columns is None:
        return
    t, a = depth[columns][None], along[columns][None]
    above = np.float32(camera.up) - t * camera.rows()[:, None]
    inside = (above > 0) & (above < building.top) & (a > span[0]) & (a < span[1]) & (t > 0.5)
    # Near houses come first and hide most of the far ones: only the box that is seen gets its windows computed.
    seen = inside & (t < canvas.depth[:, columns])
    rows, part = _span(np.asarray(seen.any(1))), _span(np.asarray(seen.any(0)))
    if rows is None or part is None:
        return
    t, colour = t[:, part], _facade(building, a[:, part], above[rows, part], t[:, part]) * light
    canvas.surface(slice(columns.start + part.start, columns.start + part.stop), seen[rows, part], colour, t, BUILDING, rows)


def _facade(building: Building, along: Array, above: Array, depth: Array) -> Array:
    """Wall, windows, shop front and cornice: colours (H, columns, 3)."""
    wide, tall = building.window
    fade = np.exp(-depth / 40)
    wall = 1 + 0.3 * (noise_at(along * 11 + building.seed, above * 11) - 0.5) + 0.25 * fade * (noise_at(along * 90, above * 150) - 0.5)
    colour = wall[..., None] * np.asarray(building.wall, np.float32)
    u, v = np.mod(along, wide) / wide, np.mod(above - 3.3, tall) / tall
    upper = (above > 3.3) & (above < building.top - 0.7)
    frame = upper & (np.abs(u - 0.5) < 0.27) & (np.abs(v - 0.52) < 0.34)
    glass = frame & (np.abs(u - 0.5) < 0.23) & (np.abs(v - 0.52) < 0.3) & (np.abs(u - 0.5) > 0.015)
    pane = hash01(along / wide, (above - 3.3) / tall, np.full((1, 1), building.seed, np.float32))
    colour[frame] = 205
    shine = 40 + 60 * pane + 50 * (above / building.top)
    colour = np.where(glass[..., None], shine[..., None] * np.asarray((0.85, 0.97, 1.1), np.float32), colour)
    low = (above < 2.9) & (above > 0.4) & (np.mod(along, wide * 2) / (wide * 2) < 0.86)
    if building.shop:
        goods = 30 + 110 * noise_at(along * 22 + building.seed, above * 22)
        colour = np.where(low[..., None], goods[..., None] * np.asarray((1.05, 1.0, 0.9), np.float32), colour)
        board = (above >= 2.9) & (above < 3.4)
        colour = np.where(board[..., None], np.asarray(_board_colour(building.seed), np.float32), colour)
    colour[np.broadcast_to(above > building.top - 0.5, colour.shape[:2])] *= 0.72
    return colour


def _board_colour(seed: float) -> Colour:
    return (40 + 190 * ((seed * 0.37) % 1), 40 + 120 * ((seed * 0.73) % 1), 40 + 140 * ((seed * 0.51) % 1))


def _in_crossing(z: Array, street: Street) -> NDArray[np.bool_]:
    inside = np.zeros(z.shape, bool)
    for start, end in street.crossings:
        inside |= (z > start) & (z < end)
    return inside


def _pavement_shade(x: Array, z: Array, fade: Array, rough: Array, street: Street) -> Array:
    joints = (np.mod(x, 0.6) < 0.03) | (np.mod(z, 0.6) < 0.03)
    shade = 138 * (1 + 0.35 * fade * rough + 0.3 * (noise_at(x * 5, z * 5) - 0.5)) * np.where(joints, 1 - 0.25 * fade, 1.0)
    kerb = np.abs(x) < street.road + 0.22
    return np.where(kerb, 172 + 20 * rough, shade)


def _markings(x: Array, z: Array, crossing: NDArray[np.bool_], street: Street) -> NDArray[np.bool_]:
    centre = (np.abs(x) < 0.07) & (np.mod(z, 6) < 3)
    edge = np.abs(np.abs(x) - (street.road - 0.3)) < 0.06
    stripes = (np.abs(z - street.zebra) < 1.6) & (np.mod(x, 1.0) < 0.5) & (np.abs(x) < street.road - 0.3)
    return ((centre | edge) & ~crossing & (np.abs(z - street.zebra) > 2.2)) | stripes


def _ground_light(x: Array, z: Array, street: Street, light: Light) -> Array:
    """Shadow that the houses of the sun's side throw on the street."""
    if not light.sun:
        return np.ones_like(x)
    reach = np.zeros_like(z)
    for building in street.buildings:
        if building.side == light.sun:
            reach = np.where((z > building.start) & (z < building.end), building.top * 0.55, reach)
    shadow = light.sun * x > street.wall - reach
    return np.where(shadow, 0.62, 1.12).astype(np.float32)


def _span(columns: NDArray[np.bool_]) -> slice | None:
    """The smallest slice that holds the marked columns."""
    found = np.flatnonzero(columns)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else None


def fog(canvas: Canvas, light: Light) -> None:
    """Mix the haze in by depth; the sky keeps its colour."""
    seen = canvas.depth < FAR
    keep = np.where(seen, np.exp(-canvas.depth * np.float32(light.fog)), 1.0)[..., None].astype(np.float32)
    canvas.image *= keep
    canvas.image += (1 - keep) * np.asarray(light.haze, np.float32)
