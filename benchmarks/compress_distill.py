"""A network pruned to half of its operations, trained on with and without its teacher: what of the whole network's mIoU is left.

    python -m benchmarks.compress_distill WHOLE.safetensors [--seeds 0 1 2] [--iterations 400] [--variants alone kd ...] [--work DIR]

Every variant starts from the same pruned weights, with the same schedule and, for a seed, the same images in the same order. Kill it and
type it again: trainings go on, and rows that are stored for the same weights are not measured again.
Results: benchmarks/results/compress_distill.json.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from segc.compress.distill.setup import Distillation
from segc.compress.targets import Target
from segc.core.files import cache_folder, read_json, sha256_file, write_json
from segc.core.rows import environment
from segc.data.dataset import open_dataset
from segc.data.embedded import embedded_dataset
from segc.models.network import load_network, save_network
from segc.pipeline.distill import distill
from segc.pipeline.prune import prune, tuning_config
from segc.train.trainer import train
from segc.validate.evaluate import validate

RESULTS = Path(__file__).parent / "results" / "compress_distill.json"
FLOPS = 0.5
ALONE = "alone"
VARIANTS: dict[str, tuple[str, ...]] = {
    ALONE: (),
    "kd": ("kd",),
    "cwd": ("cwd",),
    "kd + cwd": ("kd", "cwd"),
    "kd + feature": ("kd", *(f"feature:neck.fpn_convs.{level},similarity=cosine" for level in range(4))),
    "dist": ("dist",),
    "kd + affinity": ("kd", "affinity"),
    "boundary": ("boundary",),
}
_KEPT = ("mIoU", "reference mIoU", "drop mIoU")


def main(whole: Path, seeds: list[int], iterations: int, variants: list[str], work: Path) -> None:
    """Train and validate what is not stored yet; print and store each row at once."""
    stored = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    teacher = sha256_file(whole)
    half = work / teacher[:16] / "half.safetensors"
    if not half.exists():
        prune(load_network(None, whole), Target("flops", FLOPS), half)
    for seed in seeds:
        for variant in variants:
            key = {"variant": variant, "training_seed": seed, "iterations": iterations, "flops": FLOPS, "teacher_sha256": teacher}
            if any(key.items() <= row["conditions"].items() for row in stored):
                continue
            tuned = _tuned(whole, half, variant, seed, iterations)
            rows = [row for row in _validated(tuned, whole) if row["metric"] in _KEPT]
            if variant != ALONE and (alone := _path(half, ALONE, seed, iterations)).exists():
                rows += [{**row, "metric": "lost against alone"} for row in _validated(tuned, alone) if row["metric"] == "drop mIoU"]
            stored += [{**row, "conditions": {**row["conditions"], **key}} for row in rows]
            write_json(RESULTS, {"rows": stored, "losses": VARIANTS, "environment": environment()})
            print(f"seed {seed} {variant:14s}", *(f"{row['metric']} {row['value']:+.2f}" for row in rows), sep="  ", flush=True)


def _tuned(whole: Path, half: Path, variant: str, seed: int, iterations: int) -> Path:
    """The pruned network after its training."""
    output, pruned = _path(half, variant, seed, iterations), load_network(None, half)
    if losses := VARIANTS[variant]:
        distill(pruned, Distillation(whole, losses=losses), output, start=half, iterations=iterations, seed=seed)
    else:
        result = train(tuning_config(pruned.cfg, iterations, half), work_dir=output.with_suffix(""), seed=seed)
        save_network(replace(load_network(pruned.cfg, result.weights), cfg=pruned.cfg), output)
    return output


def _path(half: Path, variant: str, seed: int, iterations: int) -> Path:
    return half.with_name(f"{variant.replace(' + ', '_')}.{seed}.{iterations}.safetensors")


def _validated(network: Path, against: Path) -> list[dict[str, Any]]:
    dataset, maps = open_dataset(embedded_dataset(), split="val"), network.with_name("maps")
    found = validate(str(network), dataset, against=str(against), backend="torch", threads=1, maps=maps)
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def parsed() -> dict[str, Any]:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whole", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[ALONE, "cwd"])
    parser.add_argument("--work", type=Path, default=cache_folder() / "benchmarks" / "compress_distill")
    return vars(parser.parse_args())


if __name__ == "__main__":
    main(**parsed())
