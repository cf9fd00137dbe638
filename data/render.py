"""A procedurally rendered street: labelled images in CamVid's 11 classes, the same for the same seed.

It exists so that training, export and validation can be tried where no labelled images are; it stands for no real set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError
from segc.core.files import atomic_folder, write_json
from segc.core.images import encode_image
from segc.core.progress import track
from segc.data import sprites, street
from segc.data.canvas import Camera, Canvas, Colour
from segc.data.spec import DatasetSpec, known_specs

# Raise it whenever the pictures change: the cache of the embedded dataset is keyed by it.
RENDER_VERSION = 1
SPLITS = ("train", "val")

_WALLS: tuple[Colour, ...] = (
    (142, 92, 74),
    (178, 160, 132),
    (120, 112, 104),
    (196, 186, 170),
    (104, 72, 60),
    (166, 140, 110),
    (150, 152, 156),
    (186, 170, 140),
)


@dataclass(frozen=True)
class RenderOptions:
    """What to render: image size in pixels, number of scenes of each split, seed, JPEG quality."""

    width: int = 480
    height: int = 360
    train: int = 300
    val: int = 80
    seed: int = 0
    quality: int = 92


def street_spec() -> DatasetSpec:
    """Classes of the rendered set: CamVid's eleven; 255 is ignored."""
    camvid = known_specs()["camvid"]
    return DatasetSpec(name="rendered-street", classes=camvid.classes, palette=camvid.palette)


def render_dataset(root: Path | str, options: RenderOptions | None = None) -> Path:
    """Write a ``folder`` dataset (images/, labels/, dataset.json) of rendered scenes, atomically.

    Raises:
        UserError: ``root`` exists and is not empty, an option is out of range, or the disk is full or read-only.
    """
    root, options = Path(root), options or RenderOptions()
    _check(root, options)
    jobs = [(split, index) for split in SPLITS for index in range(getattr(options, split))]
    with atomic_folder(root) as folder:
        for split in SPLITS:
            (folder / "images" / split).mkdir(parents=True)
            (folder / "labels" / split).mkdir(parents=True)
        for split, index in track(jobs, "rendering street scenes"):
            image, label = render_scene(options.height, options.width, (options.seed, SPLITS.index(split), index))
            name = f"{split}_{index:05d}"
            jpeg = encode_image(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, options.quality])
            (folder / "images" / split / f"{name}.jpg").write_bytes(jpeg)
            (folder / "labels" / split / f"{name}.png").write_bytes(encode_image(".png", label))
        write_json(folder / "dataset.json", street_spec().to_json())
    return root


def render_scene(height: int, width: int, seed: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One scene: the RGB image (height, width, 3) uint8 and its train ids (height, width) uint8, 255 = ignore.

    ``seed`` decides the scene; different tuples give unrelated scenes.
    """
    rng = np.random.default_rng(seed)
    camera = _camera(height, width, rng)
    light, plan = _light(rng), _plan(rng)
    canvas = Canvas(height, width)
    street.paint_sky(canvas, camera, light, rng)
    street.paint_ground(canvas, camera, plan, light)
    for building in plan.buildings:
        street.paint_building(canvas, camera, plan, building, light)
    street.paint_skyline(canvas, camera, plan, rng)
    fence_colour = sprites.pick(rng, ((60, 66, 62), (128, 122, 112), (108, 84, 62), (176, 176, 172)))
    for fence in plan.fences:
        street.paint_fence(canvas, camera, plan, fence, fence_colour, light)
    for _, draw in sorted(_things(canvas, camera, plan, light, rng), key=lambda thing: -thing[0]):
        draw()
    street.fog(canvas, light)
    return _expose(canvas.image, rng), canvas.label


def _check(root: Path, options: RenderOptions) -> None:
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} exists and is not empty.", "Name a new folder, or remove it first.")
    for name in ("width", "height", "train", "val"):
        low = 64 if name in ("width", "height") else 1
        if getattr(options, name) < low:
            raise UserError(f"{name} is {getattr(options, name)}, expected at least {low}.")


def _camera(height: int, width: int, rng: np.random.Generator) -> Camera:
    return Camera(
        width=width,
        height=height,
        focal=width * float(rng.uniform(0.85, 1.1)),
        horizon=height * float(rng.uniform(0.42, 0.53)),
        x=float(rng.uniform(-2.6, 0.4)),
        up=float(rng.uniform(1.25, 1.6)),
        yaw=float(rng.normal(0, 0.07)),
    )


def _light(rng: np.random.Generator) -> street.Light:
    kind = rng.choice(("sun", "overcast", "dusk", "mist"), p=(0.45, 0.3, 0.12, 0.13))
    if kind == "sun":
        sun = int(rng.choice((-1, 1)))
        bright = (1.12, 0.68) if sun > 0 else (0.68, 1.12)
        clouds, fog = float(rng.uniform(0, 0.5)), float(rng.uniform(0.0004, 0.002))
        return street.Light(bright[1], bright[0], 0.9, (92, 138, 205), (206, 218, 232), clouds, fog, sun)
    if kind == "overcast":
        return street.Light(0.9, 0.88, 0.84, (186, 192, 200), (222, 224, 226), 0.6, float(rng.uniform(0.001, 0.004)), 0)
    if kind == "dusk":
        return street.Light(0.74, 0.66, 0.6, (96, 98, 140), (226, 172, 128), 0.4, 0.002, 0)
    return street.Light(0.85, 0.85, 0.82, (200, 204, 206), (208, 211, 213), 0.2, float(rng.uniform(0.008, 0.016)), 0)


def _plan(rng: np.random.Generator) -> street.Street:
    road = float(rng.uniform(3.2, 5.2))
    wall = road + float(rng.uniform(2.0, 4.5))
    crossings: tuple[tuple[float, float], ...] = ()
    if rng.random() < 0.5:
        start = float(rng.uniform(14, 40))
        crossings = ((start, start + float(rng.uniform(6, 9))),)
    buildings = tuple(building for side in (-1, 1) for building in _row_of_buildings(side, crossings, rng))
    fences = []
    for side in (-1, 1):
        if rng.random() < 0.55:
            start = float(rng.uniform(1, 18))
            end = start + float(rng.uniform(6, 22))
            if all(end < a or start > b for a, b in crossings):
                fences.append((side, start, end, bool(rng.random() < 0.6)))
    zebra = float(rng.uniform(7, 24)) if rng.random() < 0.35 else -100.0
    skyline = street.TREE if rng.random() < 0.6 else street.BUILDING
    return street.Street(road, wall, crossings, buildings, tuple(fences), zebra, float(rng.uniform(72, 112)), skyline)


def _row_of_buildings(side: int, crossings: tuple[tuple[float, float], ...], rng: np.random.Generator) -> list[street.Building]:
    row, z = [], float(rng.uniform(-8, 2))
    open_side = rng.random() < 0.15
    while z < 110:
        end = z + float(rng.uniform(7, 18))
        blocked = any(z < b and end > a for a, b in crossings)
        if not blocked and not (open_side and z < 50) and rng.random() < 0.88:
            top = float(rng.uniform(5.5, 15))
            window = (float(rng.uniform(1.6, 3.2)), float(rng.uniform(2.6, 3.4)))
            paint = sprites.pick(rng, _WALLS)
            row.append(street.Building(side, z, end, top, paint, window, bool(rng.random() < 0.45), float(rng.uniform(0, 97))))
        z = end + (float(rng.uniform(1, 6)) if rng.random() < 0.35 else 0.0)
    return row


Thing = tuple[float, Callable[[], None]]
Draw = Callable[[sprites.Board, np.random.Generator, float], None]


def _things(canvas: Canvas, camera: Camera, plan: street.Street, light: street.Light, rng: np.random.Generator) -> list[Thing]:
    """Everything that stands in the street, as (depth, how to draw it)."""
    things: list[Thing] = []

    def stand(draw: Draw, x: float, z: float) -> None:
        board = sprites.Board(canvas, camera, x, z)
        own = np.random.default_rng(int(rng.integers(1 << 62)))
        if board.seen():
            things.append((board.depth, lambda: draw(board, own, light.front)))

    for side in (-1, 1):
        _roadside(stand, plan, side, rng)
    for _ in range(int(rng.integers(2, 9))):
        stand(
            sprites.draw_person,
            float(rng.choice((-1, 1))) * float(rng.uniform(plan.road + 0.5, plan.wall - 0.3)),
            4 + 26 * float(rng.random()) ** 1.5,
        )
    for _ in range(int(rng.integers(0, 3))):
        stand(sprites.draw_person, float(rng.uniform(-plan.road, plan.road)), float(rng.uniform(8, 28)))
    for _ in range(int(rng.integers(0, 4))):
        stand(sprites.draw_bicyclist, float(rng.choice((-1, 1))) * (plan.road - float(rng.uniform(0.5, 2))), float(rng.uniform(5, 24)))
    return things + _cars(canvas, camera, plan, light, rng)


def _roadside(stand: Callable[[Draw, float, float], None], plan: street.Street, side: int, rng: np.random.Generator) -> None:
    """Poles, signs and trees in rows along one kerb, bins and bushes between them."""
    spacing, trees = float(rng.uniform(11, 22)), rng.random() < 0.5
    for index in range(5):
        z = 4 + spacing * (index + float(rng.uniform(0, 0.5)))
        if not any(a - 1 < z < b + 1 for a, b in plan.crossings):
            stand(sprites.draw_pole, side * (plan.road + 0.5), z)
            if trees and rng.random() < 0.8:
                stand(sprites.draw_tree, side * (plan.wall - 0.8), z + spacing * 0.45)
    for _ in range(int(rng.integers(1, 4))):
        stand(sprites.draw_sign, side * (plan.road + float(rng.uniform(0.3, 0.8))), float(rng.uniform(6, 26)))
    for draw, chance in ((sprites.draw_bin, 0.4), (sprites.draw_bush, 0.4), (sprites.draw_bush, 0.3)):
        if rng.random() < chance:
            stand(draw, side * (plan.wall - 0.5), float(rng.uniform(5, 25)))
    for _ in range(int(rng.integers(0, 4))):
        stand(sprites.draw_tree, side * (plan.wall + float(rng.uniform(1, 9))), float(rng.uniform(15, 70)))


def _cars(canvas: Canvas, camera: Camera, plan: street.Street, light: street.Light, rng: np.random.Generator) -> list[Thing]:
    """Parked cars along the kerbs and a few on the lanes; none inside another."""
    places = []
    for side in (-1, 1):
        z = float(rng.uniform(4, 12))
        parked = rng.random() < 0.6
        while z < 60:
            if parked and rng.random() < 0.6 and not any(a - 5 < z < b for a, b in plan.crossings):
                places.append((side * (plan.road - 1.05), z, bool(rng.random() < 0.5)))
            z += float(rng.uniform(5.5, 8))
        if rng.random() < 0.6:
            places.append((side * (plan.road - (3.1 if parked else 1.6)), float(rng.uniform(9, 40)), side > 0))
    things: list[Thing] = []
    for x, z, towards in places:
        own = np.random.default_rng(int(rng.integers(1 << 62)))
        things.append((z, _car(canvas, camera, own, x, z, light.front, towards)))
    return things


def _car(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float, light: float, towards: bool) -> Callable[[], None]:
    return lambda: sprites.draw_car(canvas, camera, rng, x, z, light, towards)


def _expose(image: NDArray[Any], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lens blur, vignette, white balance, gamma and sensor noise: float RGB 0..255 to uint8."""
    height, width = image.shape[:2]
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.45, 0.9)))
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    gain = rng.uniform(0.75, 1.2) * rng.normal(1, 0.035, 3)
    image = np.clip(image * (1 - 0.12 * (x * x + y * y))[..., None] * gain.astype(np.float32) / 255, 0, 1)
    image = image ** np.float32(rng.uniform(0.8, 1.25)) * 255
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(1, 6))
    return np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)
