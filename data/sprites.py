"""The things that stand in the rendered street: cars, people, bicyclists, trees, poles, signs, litter bins."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.data.canvas import Array, Camera, Canvas, Colour, noise_texture
from segc.data.street import BICYCLIST, CAR, PEDESTRIAN, POLE, SIGN, TREE, VOID

_PAINTS: tuple[Colour, ...] = (
    (176, 178, 182),
    (38, 40, 45),
    (150, 28, 30),
    (32, 58, 118),
    (215, 215, 212),
    (88, 92, 96),
    (46, 84, 62),
    (178, 146, 60),
)
_CLOTHES: tuple[Colour, ...] = (
    (35, 38, 48),
    (120, 34, 36),
    (52, 78, 128),
    (150, 145, 138),
    (60, 82, 58),
    (196, 176, 70),
    (208, 206, 200),
    (92, 60, 96),
)
_SKIN: tuple[Colour, ...] = ((205, 160, 132), (142, 98, 72), (226, 184, 156), (92, 62, 48))
_RUBBER: Colour = (28, 28, 30)


def dim(colour: Colour, factor: float) -> Colour:
    """The colour, ``factor`` times as bright."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """One of the colours, a little varied."""
    return dim(colours[int(rng.integers(len(colours)))], float(rng.uniform(0.8, 1.15)))


class Board:
    """A flat figure that faces the camera at (x, z): polygons in metres (across, up) become pixels."""

    def __init__(self, canvas: Canvas, camera: Camera, x: float, z: float) -> None:
        self.canvas = canvas
        pixels, depth = camera.project(np.array([[x, 0.0, z]]))
        self.foot, self.depth = pixels[0], float(depth[0])
        self.scale = camera.focal / max(self.depth, 0.1)

    def seen(self, nearest: float = 2.0) -> bool:
        """False when it is behind the camera or too near."""
        return self.depth > nearest

    def pixels(self, points: NDArray[np.floating]) -> Array:
        """Pixels of points (N, 2) = (metres across, metres up)."""
        return (self.foot + points * np.array([self.scale, -self.scale])).astype(np.float32)

    def fill(self, points: list[tuple[float, float]], colour: Colour, label: int, grain: float = 0.25, dark: float = 0.2) -> None:
        """Draw a polygon."""
        self.canvas.polygon(self.pixels(np.array(points)), self.depth, colour, label, grain, dark)

    def disc(self, across: float, up: float, radius: tuple[float, float], colour: Colour, label: int, dark: float = 0.15) -> None:
        """Draw an ellipse."""
        turn = np.linspace(0, 2 * np.pi, 18, endpoint=False)
        points = np.stack([across + radius[0] * np.cos(turn), up + radius[1] * np.sin(turn)], axis=1)
        self.canvas.polygon(self.pixels(points), self.depth, colour, label, 0.2, dark)

    def bar(self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour, label: int) -> None:
        """Draw a straight bar, at least 1.3 pixels wide so that its label exists."""
        a, b = np.array(start), np.array(end)
        along = (b - a) / max(float(np.hypot(*(b - a))), 1e-6)
        off = np.array([-along[1], along[0]]) * max(width, 1.3 / self.scale) / 2
        self.canvas.polygon(self.pixels(np.stack([a + off, b + off, b - off, a - off])), self.depth, colour, label, 0.15)


def draw_pole(board: Board, rng: np.random.Generator, light: float) -> None:
    """A street lamp or a plain pole."""
    colour = dim((96, 98, 96), light * float(rng.uniform(0.6, 1.3)))
    height = float(rng.uniform(5, 8))
    board.bar((0, 0), (0, height), 0.13, colour, POLE)
    board.bar((0, 0), (0, 1.1), 0.2, colour, POLE)
    if rng.random() < 0.7:
        reach = float(rng.choice((-1.6, 1.6)))
        board.bar((0, height - 0.1), (reach, height + 0.3), 0.12, colour, POLE)
        board.bar((reach * 0.8, height + 0.25), (reach * 1.25, height + 0.3), 0.24, dim(colour, 1.3), POLE)


def draw_sign(board: Board, rng: np.random.Generator, light: float) -> None:
    """A traffic sign or a traffic light on its pole."""
    height = float(rng.uniform(2.3, 3.1))
    board.bar((0, 0), (0, height + 0.2), 0.11, dim((120, 122, 124), light), POLE)
    kind = int(rng.integers(4))
    white, red, blue = dim((225, 225, 222), light), dim((186, 28, 34), light), dim((28, 70, 160), light)
    if kind == 0:
        board.disc(0, height, (0.42, 0.42), red, SIGN)
        board.disc(0, height, (0.3, 0.3), white, SIGN)
        board.fill([(-0.18, height - 0.06), (0.18, height - 0.06), (0.18, height + 0.06), (-0.18, height + 0.06)], (40, 40, 40), SIGN)
    elif kind == 1:
        board.fill([(-0.5, height - 0.35), (0.5, height - 0.35), (0, height + 0.5)], red, SIGN)
        board.fill([(-0.3, height - 0.24), (0.3, height - 0.24), (0, height + 0.27)], white, SIGN)
    elif kind == 2:
        board.fill([(-0.4, height - 0.4), (0.4, height - 0.4), (0.4, height + 0.4), (-0.4, height + 0.4)], blue, SIGN)
        board.bar((0, height - 0.26), (0, height + 0.28), 0.14, white, SIGN)
    else:
        board.fill([(-0.2, height - 0.5), (0.2, height - 0.5), (0.2, height + 0.55), (-0.2, height + 0.55)], (32, 34, 34), SIGN)
        lamp = int(rng.integers(3))
        for index, colour in enumerate(((60, 210, 90), (230, 170, 40), (230, 40, 36))):
            board.disc(0, height - 0.3 + 0.32 * index, (0.11, 0.11), colour if index == lamp else dim(colour, 0.25), SIGN)


def draw_person(board: Board, rng: np.random.Generator, light: float, label: int = PEDESTRIAN) -> None:
    """A walking or standing person, 1.5 to 1.9 m tall."""
    tall = float(rng.uniform(0.86, 1.1))
    coat, legs, skin = (dim(pick(rng, colours), light) for colours in (_CLOTHES, _CLOTHES, _SKIN))
    step = float(rng.uniform(0.02, 0.28))
    for foot in (-step, step):
        board.bar((foot * 0.3, 0.88 * tall), (foot, 0.05), 0.19, dim(legs, 0.85 if foot < 0 else 1.0), label)
        board.bar((foot - 0.06, 0.05), (foot + 0.12, 0.05), 0.1, _RUBBER, label)
    board.fill(
        [(-0.2, 0.8 * tall), (0.2, 0.8 * tall), (0.25, 1.42 * tall), (0.12, 1.52 * tall), (-0.12, 1.52 * tall), (-0.25, 1.42 * tall)],
        coat,
        label,
    )
    for shoulder in (-0.25, 0.25):
        board.bar((shoulder, 1.42 * tall), (shoulder + step * np.sign(shoulder) * 0.5, 0.85 * tall), 0.12, dim(coat, 0.88), label)
    if rng.random() < 0.3:
        board.fill([(0.2, 0.7 * tall), (0.46, 0.7 * tall), (0.44, 1.0 * tall), (0.22, 1.0 * tall)], dim(pick(rng, _CLOTHES), light), label)
    board.disc(0, 1.64 * tall, (0.115, 0.145), skin, label)
    board.disc(0, 1.71 * tall, (0.12, 0.09), dim((70, 50, 36), light * float(rng.uniform(0.4, 1.6))), label)


def draw_bicyclist(board: Board, rng: np.random.Generator, light: float) -> None:
    """A rider with the bicycle, seen from the side or along the street."""
    side = rng.random() < 0.55
    coat, legs, skin = (dim(pick(rng, colours), light) for colours in (_CLOTHES, _CLOTHES, _SKIN))
    frame = dim(pick(rng, _PAINTS), light)
    if side:
        for hub in (-0.52, 0.52):
            turn = np.linspace(0, 2 * np.pi, 15)
            rim = [(hub + 0.33 * float(np.cos(t)), 0.34 + 0.33 * float(np.sin(t))) for t in turn]
            for start, end in pairwise(rim):
                board.bar(start, end, 0.06, _RUBBER, BICYCLIST)
        for start, end in (
            ((-0.52, 0.34), (-0.2, 0.85)),
            ((-0.2, 0.85), (0.38, 0.8)),
            ((0.38, 0.95), (0.52, 0.34)),
            ((-0.2, 0.85), (0.0, 0.34)),
        ):
            board.bar(start, end, 0.06, frame, BICYCLIST)
    else:
        board.bar((0, 0), (0, 0.72), 0.09, _RUBBER, BICYCLIST)
        board.bar((-0.3, 1.0), (0.3, 1.0), 0.05, frame, BICYCLIST)
    lean = 0.28 if side else 0.0
    board.bar((-0.15, 0.95), (0.1, 0.5), 0.17, legs, BICYCLIST)
    board.bar((0.1, 0.5), (0.02, 0.22), 0.13, dim(legs, 0.85), BICYCLIST)
    half = 0.17 if side else 0.24
    board.fill([(-0.2 - half / 2, 0.9), (half - 0.12, 0.9), (lean + half, 1.42), (lean - half, 1.46)], coat, BICYCLIST)
    board.bar((lean + 0.05, 1.38), (0.42 if side else 0.28, 1.0), 0.1, dim(coat, 0.9), BICYCLIST)
    board.disc(lean + 0.08 * side, 1.6, (0.12, 0.145), skin, BICYCLIST)
    board.disc(lean + 0.08 * side, 1.69, (0.14, 0.085), dim(pick(rng, _PAINTS), light), BICYCLIST)


def draw_bin(board: Board, rng: np.random.Generator, light: float) -> None:
    """A litter bin: a thing of no class, to be ignored."""
    colour = dim((48, 62, 50), light * float(rng.uniform(0.7, 1.5)))
    board.fill([(-0.24, 0), (0.24, 0), (0.28, 0.95), (-0.28, 0.95)], colour, VOID, dark=0.4)
    board.fill([(-0.3, 0.95), (0.3, 0.95), (0.2, 1.12), (-0.2, 1.12)], dim(colour, 0.7), VOID)


def draw_tree(board: Board, rng: np.random.Generator, light: float) -> None:
    """A trunk and a ragged crown of leaves through which the background shows."""
    height = float(rng.uniform(5, 9))
    bark = dim((74, 60, 48), light)
    board.bar((0, 0), (0.1, height * 0.6), float(rng.uniform(0.22, 0.4)), bark, TREE)
    for _ in range(3):
        board.bar((0.05, height * 0.4), (float(rng.uniform(-1.3, 1.3)), height * 0.75), 0.12, dim(bark, 0.8), TREE)
    _crown(board, rng, (0.0, height * 0.72), (float(rng.uniform(1.6, 2.6)), height * 0.33), light)


def draw_bush(board: Board, rng: np.random.Generator, light: float) -> None:
    """A low crown without a trunk."""
    _crown(board, rng, (0.0, 0.6), (float(rng.uniform(0.7, 1.5)), float(rng.uniform(0.6, 1.0))), light)


def _crown(board: Board, rng: np.random.Generator, middle: tuple[float, float], radius: tuple[float, float], light: float) -> None:
    canvas, scale = board.canvas, board.scale
    height, width = canvas.label.shape
    centre = board.pixels(np.array([middle]))[0]
    reach = np.array(radius) * scale
    left, top = np.maximum(np.floor(centre - reach * 1.42), 0).astype(int)
    right, bottom = np.minimum(np.ceil(centre + reach * 1.42), (width, height)).astype(int)
    if right - left < 2 or bottom - top < 2:
        return
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    u, v = (x - centre[0]) / scale, (y - centre[1]) / scale
    leaves, clumps = _leaf_noise(u, v, rng)
    shape = 1 - np.sqrt((u / radius[0]) ** 2 + (v / radius[1]) ** 2)
    dense = shape + 0.65 * (clumps - 0.5) + 0.4 * (leaves - 0.5) > 0.12
    box = np.s_[top:bottom, left:right]
    seen = dense & (board.depth <= canvas.depth[box])
    green = np.array([(62, 84, 38), (84, 96, 44), (48, 72, 40), (112, 98, 46)][int(rng.integers(4))], np.float32) * light
    shade = np.clip(0.35 + 1.1 * leaves + 0.5 * (clumps - 0.5) - 0.3 * v / radius[1], 0.15, 1.7)
    canvas.image[box][seen] = (shade[..., None] * green)[seen]
    canvas.label[box][seen] = TREE
    canvas.depth[box][seen] = board.depth


def _leaf_noise(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Fine and coarse noise over metres (u, v), each stretched to fill 0..1."""
    texture, start = noise_texture(), rng.integers(0, 512, 2)

    def sample(texels: float) -> Array:
        value = texture[(v * texels + start[0]).astype(np.int32) & 511, (u * texels + start[1]).astype(np.int32) & 511]
        return np.clip((value - 0.5) * 1.8 + 0.5, 0, 1)

    return sample(190.0), sample(32.0)


def draw_car(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float, light: float, towards: bool) -> None:
    """A car along the street, its near end at ``z``: shadow, side, near end, cabin, wheels, lamps and number plate."""
    long, wide, high = float(rng.uniform(3.7, 4.7)), float(rng.uniform(1.65, 1.85)), float(rng.uniform(1.4, 1.75))
    colour = dim(pick(rng, _PAINTS), light)
    _, near = camera.project(np.array([[x, 0, z], [x, 0, z + long]]))
    if near[0] < 3:
        return
    depth = float(near[0])

    def face(points: list[tuple[float, float, float]], paint: Colour, label: int = CAR, dark: float = 0.25) -> None:
        corners = np.array(points) * (1, 1, long) + (x, 0, z)
        canvas.polygon(camera.project(corners)[0], depth, paint, label, 0.12, dark)

    _cast_shadow(canvas, camera, (x - wide * 0.55, x + wide * 0.55), (z - 0.1, z + long), depth)
    half, belt = wide / 2, high * 0.58
    flank = half if camera.x > x else -half
    face([(flank, 0.25, 0), (flank, 0.25, 1), (flank, belt, 1), (flank, belt, 0)], dim(colour, 0.7))
    face([(flank, belt, 0), (flank, belt, 0.78), (flank * 0.8, high, 0.62), (flank * 0.8, high, 0.14)], dim(colour, 0.65))
    face(
        [(flank, belt, 0.12), (flank, belt, 0.7), (flank * 0.83, high * 0.96, 0.59), (flank * 0.83, high * 0.96, 0.19)],
        dim((58, 66, 74), light),
    )
    for axle in (0.17, 0.8):
        _wheel(face, flank, axle, long)
    face([(-half, 0.25, 0), (half, 0.25, 0), (half, belt, 0), (-half, belt, 0)], colour, dark=0.4)
    face([(-half, belt, 0), (half, belt, 0), (half * 0.8, high, 0.14), (-half * 0.8, high, 0.14)], dim(colour, 0.95))
    glass = dim((70, 82, 92), light)
    face(
        [
            (-half * 0.88, belt * 1.02, 0.01),
            (half * 0.88, belt * 1.02, 0.01),
            (half * 0.72, high * 0.96, 0.12),
            (-half * 0.72, high * 0.96, 0.12),
        ],
        glass,
    )
    lamp: Colour = (240, 236, 214) if towards else (170, 22, 20)
    for end in (-1, 1):
        outer, inner = end * half * 0.96, end * half * 0.66
        face([(outer, belt * 0.72, 0), (inner, belt * 0.72, 0), (inner, belt * 0.93, 0), (outer, belt * 0.93, 0)], lamp)
        face([(outer, 0.0, 0), (end * half * 0.68, 0.0, 0), (end * half * 0.68, 0.3, 0), (outer, 0.3, 0)], _RUBBER)
    plate = (210, 206, 190) if towards else (206, 184, 70)
    face([(-0.26, 0.42, 0), (0.26, 0.42, 0), (0.26, 0.54, 0), (-0.26, 0.54, 0)], dim(plate, light))
    face([(-half, 0.25, 0), (half, 0.25, 0), (half, 0.36, 0), (-half, 0.36, 0)], (36, 36, 38))


def _wheel(face: object, flank: float, axle: float, long: float) -> None:
    turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    for radius, paint in ((0.33, _RUBBER), (0.19, (120.0, 122.0, 126.0))):
        rim = [(flank * 1.01, 0.33 + radius * float(np.sin(t)), axle + radius * float(np.cos(t)) / long) for t in turn]
        face(rim, paint)  # type: ignore[operator]


def _cast_shadow(canvas: Canvas, camera: Camera, across: tuple[float, float], along: tuple[float, float], depth: float) -> None:
    """Darken the ground under a thing; the label of the ground stays."""
    corners = np.array([[across[0], 0.02, along[0]], [across[1], 0.02, along[0]], [across[1], 0.02, along[1]], [across[0], 0.02, along[1]]])
    pixels, _ = camera.project(corners)
    mask = np.zeros(canvas.label.shape, np.uint8)
    cv2.fillPoly(mask, [np.round(np.clip(pixels, -4000, 4000) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    dark = (mask > 0) & (canvas.depth > depth - 1.0)
    canvas.image[dark] *= 1 - 0.6 * (mask[dark] / np.float32(255))[:, None]
