"""A validation in parts: what was counted on a chunk of the images, kept in a file until the whole is done.

A part is named by the content of all that it depends on: both artefacts, the versions they run in, the dataset's classes, and the images
and labels of the chunk. So a part that is there is right, whoever made it: an attempt that was killed, another process, another host.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from segc.core.errors import UserError
from segc.core.files import sha256_json
from segc.core.images import read_image_bytes
from segc.data.dataset import Pair, SegmentationSet
from segc.validate.confusions import Confusions, load_with_about, save_confusions
from segc.validate.scoring import Agreement, Counts, Scored, counted, open_lanes
from segc.validate.sides import Side

CHUNK = 32
_VERSION = 1  # raise it when other counts come out for the same artefact and images


@dataclass(frozen=True)
class Job:
    """What is counted: ``target``, and what it lost against another artefact, on the first images of a dataset.

    places: see ``segc.validate.places``. maps: see ``segc.validate.scoring.open_lanes``. size: images of a chunk.
    """

    target: Side
    against: Side | None
    dataset: SegmentationSet
    pairs: Sequence[Pair]
    places: bool = False
    maps: Path | None = None
    size: int = CHUNK

    @cached_property
    def key(self) -> str:
        """Content hash of all that the counts of an image depend on but the image."""
        sides = [side.key if side else None for side in (self.target, self.against)]
        return sha256_json([_VERSION, sides, self.dataset.spec.to_json(), self.places])

    @property
    def chunks(self) -> range:
        """Indices of the chunks."""
        return range(-(-len(self.pairs) // self.size))

    def images(self, chunks: Iterable[int]) -> int:
        """How many images some chunks have."""
        return sum(len(self.pairs_of(index)) for index in chunks)

    def pairs_of(self, index: int) -> Sequence[Pair]:
        """The pairs of a chunk."""
        return self.pairs[index * self.size : (index + 1) * self.size]

    def chunk(self, index: int) -> Chunk:
        """A chunk with its key; reads its files.

        Raises:
            UserError: one cannot be read.
        """
        files = (path for pair in self.pairs_of(index) for path in (pair.image, pair.label))
        digests = b"".join(hashlib.sha256(read_image_bytes(path)).digest() for path in files)
        return Chunk(index, sha256_json([self.key, digests.hex()]), digests)

    def nothing(self) -> Counts:
        """The counts of no image."""
        return Counts.empty(self.dataset.spec.num_classes, compared=self.against is not None)


@dataclass(frozen=True)
class Chunk:
    """A chunk whose part is in the store.

    digests: of the image and the label of every pair, 32 bytes each. seconds: what counting it took; 0 where it had been before.
    """

    index: int
    key: str
    digests: bytes
    seconds: float = 0.0


class Parts:
    """The parts of validations in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, chunk: Chunk) -> bool:
        """Whether the chunk was counted."""
        return self._path(chunk).is_file()

    def save(self, chunk: Chunk, counts: Counts) -> None:
        """Keep the counts of a chunk."""
        about: dict[str, Any] = {"brightness": counts.brightness, "notices": sorted(counts.notices)}
        if counts.agreement:
            about |= {**vars(counts.agreement), "matrix": np.asarray(counts.agreement.matrix).tolist()}
        save_confusions(self._path(chunk), named_confusions(counts), about)

    def load(self, chunk: Chunk) -> Counts:
        """The counts of a chunk.

        Raises:
            UserError: the file is missing, damaged or none of ours; it is named.
        """
        path = self._path(chunk)
        try:
            sides, about = load_with_about(path)
            target, against = _scored(sides, "target"), _scored(sides, "against") if "against" in sides else None
            agreement = Agreement(about["same"], about["pixels"], np.array(about["matrix"], np.int64)) if against else None
            return Counts(target, against, agreement, about["brightness"], set(about["notices"]))
        except (UserError, KeyError, TypeError, ValueError) as error:
            told = error.message if isinstance(error, UserError) else error
            raise UserError(f"{path} is no part of a validation ({told}).", "Remove it and give the same command again.") from error

    def _path(self, chunk: Chunk) -> Path:
        return self.folder / f"{chunk.key}.npz"


def named_confusions(counts: Counts) -> dict[str, Confusions]:
    """The matrices of whole images under the side's name, those of a place under ``side.place``."""
    sides = {"target": counts.scored, **({"against": counts.reference} if counts.reference else {})}
    places = {f"{name}.{place}": found for name, side in sides.items() for place, found in side.places.items()}
    return {**{name: side.matrices for name, side in sides.items()}, **places}


def _scored(sides: dict[str, Confusions], name: str) -> Scored:
    start = f"{name}."
    return Scored(sides[name], {key.removeprefix(start): found for key, found in sides.items() if key.startswith(start)})


def count_missing(job: Job, parts: Parts, chunks: Iterable[int], threads: int) -> Iterator[Chunk | None]:
    """Count the chunks whose parts are not there; one item an image: its chunk with the last image of each, None before.

    Images stream on from chunk to chunk; the artefacts are opened with the first image that is to be counted.

    Raises:
        UserError: see ``segc.validate.evaluate.validate``.
    """
    missing: deque[Chunk] = deque()
    there: list[Chunk] = []

    def pairs() -> Iterator[Pair]:
        for index in chunks:
            chunk = job.chunk(index)
            if parts.has(chunk):
                there.append(chunk)
            else:
                missing.append(chunk)
                yield from job.pairs_of(index)

    source = pairs()
    first = next(source, None)
    if first is not None:
        lanes = open_lanes(job.target, job.against, job.dataset, threads, job.maps)
        yield from _count_chunks(job, parts, missing, counted(lanes, job.dataset, chain([first], source), job.places))
    for chunk in there:
        yield from [None] * (len(job.pairs_of(chunk.index)) - 1)
        yield chunk


def _count_chunks(job: Job, parts: Parts, chunks: deque[Chunk], stream: Iterator[Counts]) -> Iterator[Chunk | None]:
    """Keep the counts of a stream of images chunk by chunk."""
    counts, start = job.nothing(), time.perf_counter()
    for one in stream:
        counts.merge(one)
        if len(counts.brightness) < len(job.pairs_of(chunks[0].index)):
            yield None
            continue
        chunk = chunks.popleft()
        parts.save(chunk, counts)
        before, start = start, time.perf_counter()
        counts = job.nothing()
        yield replace(chunk, seconds=start - before)
