"""What a search leaves: the winning bundle, a recipe that makes it again, a chart and every attempt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segc.compress.half import halve_bundle
from segc.compress.quantize import quantize_bundle
from segc.core.files import atomic_folder, write_json, write_text
from segc.pipeline.chart import pareto_svg
from segc.pipeline.prepare import Prepared
from segc.pipeline.recipe import Quantize, Recipe, show
from segc.pipeline.search import Attempt, Found
from segc.runtime.bundle import copy_fp32, write_manifest

BUNDLE, RECIPE = "best", "recipe.yaml"


def write_search(found: Found, prepared: Prepared, work: Path) -> dict[str, Any]:
    """Write everything into ``work``; a bundle that is there from an earlier search is replaced.

    Returns:
        The stored result, with the names of what was written; ``recipe`` is None for a bundle that does not say how it was made.
    """
    backend = found.result["backend"]
    chart, result = work / f"search.{backend}.svg", work / f"search.{backend}.json"
    write_bundle(found.winner, backend, prepared.bundle, work / BUNDLE)
    recipe = searched_recipe(found, prepared.recipe) if prepared.recipe else None
    if recipe:
        write_text(work / RECIPE, show(recipe))
    write_text(chart, pareto_svg(found.result, found.winner.name))
    told = {
        **found.result,
        "winner": found.winner.as_json(),
        "nearest": found.nearest.as_json() if found.nearest else None,
        "why": found.why,
        "bundle": str(work / BUNDLE),
        "recipe": str(work / RECIPE) if recipe else None,
        "chart": str(chart),
    }
    write_json(result, told)
    return {**told, "result": str(result)}


def write_bundle(winner: Attempt, backend: str, source: Path, output: Path) -> None:
    """A copy of a bundle with the winner's graph beside fp32, preferred on this backend; results, engines and other graphs are left out."""
    with atomic_folder(output) as bundle:
        manifest = copy_fp32(source, bundle)
        precision = "fp32"
        if winner.int8:
            precision, manifest = "int8", quantize_bundle(bundle, precisions=named(winner))
        elif winner.name == "fp16":
            precision, manifest = "fp16", halve_bundle(bundle, "fp16")
        preferred = {"precision": precision, "backend": backend}
        write_manifest(bundle, manifest.model_copy(update={"preferred": preferred}))


def searched_recipe(found: Found, recipe: Recipe) -> Recipe:
    """The recipe with the winner's precisions, gated and measured as they were searched."""
    winner, result = found.winner, found.result
    quantize = Quantize.model_validate({"enabled": winner.int8, "precisions": named(winner) if winner.int8 else {}})
    validation = recipe.validation.model_copy(update={"max_drop": result["max_drop"]})
    benchmark = recipe.benchmark.model_copy(update={"backends": [result["backend"]]})
    sections = {"quantize": quantize, "validation": validation, "benchmark": benchmark}
    return recipe.model_copy(update={**sections, "name": f"{recipe.name}-searched", "work_dir": None})


def named(attempt: Attempt) -> dict[str, str]:
    """The precisions that are not the default."""
    return {block: precision for block, precision in attempt.precisions.items() if precision != "int8"}
