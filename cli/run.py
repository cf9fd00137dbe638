"""``segc run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segc.cli.verb import Outcome, verb
from segc.core.errors import missing_extra

if TYPE_CHECKING:
    from segc.pipeline.run import RunResult


@verb
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe (YAML): a path, or segc::recipes/NAME.yaml.")],
    work_dir: Annotated[Path | None, typer.Option(help="Folder of everything the run writes. Default: work_dirs/NAME.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget earlier work and do every stage anew.")] = False,
    start: Annotated[str | None, typer.Option("--from", help="Redo this stage and the later ones.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Stop after this stage.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe with every default and its meaning; run nothing.")] = False,
) -> Outcome:
    """Run a whole recipe: train, export, calibrate, quantize, validate, benchmark, report.

    Stages whose inputs did not change are skipped; a run that was stopped goes on where it was. Exit code 1: the accuracy gate says no.

    Example: segc run segc::recipes/quickstart.yaml

    Example: segc run recipe.yaml --from calibrate --until validate
    """
    if show:
        return _show(recipe)
    run_recipe = _import()
    result = run_recipe(recipe, work_dir, fresh=fresh, start=start, until=until)
    if not result.complete:
        return Outcome(f"stopped after {result.stages[-1].stage}; bundle: {result.bundle}", result.as_json())
    return Outcome(_summary(result), result.as_json(), _tables(result), passed=not result.failures)


def _import() -> Any:
    """``run_recipe``, or the sentence that says what to install for it."""
    try:
        from segc.pipeline.run import run_recipe
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "train", "segc run") from error
    return run_recipe


def _show(recipe: str) -> Outcome:
    from rich.text import Text

    from segc.pipeline.recipe import load_recipe, show

    found = load_recipe(recipe)
    return Outcome(f"recipe {found.name} is valid", {"recipe": found.resolved()}, [Text(show(found))])


def _summary(result: RunResult) -> str:
    if result.failures:
        return "; ".join(result.failures) + f"; report: {result.report}"
    best = result.chosen
    fastest = f"{best.precision} on {best.backend}, {best.p50_ms:.1f} ms" if best else "nothing exact"
    scores = ", ".join(f"{precision} {value:.2f} %" for precision, value in result.miou.items())
    return f"mIoU {scores}; fastest exact: {fastest}; report: {result.report}"


def _tables(result: RunResult) -> list[Any]:
    from rich.table import Table

    accuracy = Table("network", "mIoU %", "drop (points)", title="Accuracy on the validation split")
    for name, value in result.guesses.items():
        accuracy.add_row(f"baseline: {name.replace('_', ' ')}", f"{value:.2f}", "")
    for name, value in result.miou.items():
        accuracy.add_row(name, f"{value:.2f}", f"{result.miou['fp32'] - value:.2f}")
    slowest = max(each.p50_ms for each in result.candidates if each.precision == "fp32")
    speed = Table("precision", "backend", "mIoU %", "p50 ms", "speed-up", "size MiB", "preferred", title="Speed of one image")
    for each in sorted(result.candidates, key=lambda each: each.p50_ms):
        numbers = (f"{each.miou:.2f}", f"{each.p50_ms:.1f}", f"{slowest / each.p50_ms:.2f}x", f"{each.size / 2**20:.2f}")
        speed.add_row(each.precision, each.backend, *numbers, "yes" if each is result.chosen else "")
    return [accuracy, speed]
