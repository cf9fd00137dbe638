"""Run a recipe from start to verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segc.core.files import explain_write_errors
from segc.pipeline.engine import Done, run_stages
from segc.pipeline.gate import Candidate, failures, worst
from segc.pipeline.recipe import Recipe, load_recipe
from segc.pipeline.stages import Run
from segc.runtime.bundle import read_manifest


@dataclass(frozen=True)
class RunResult:
    """What a run ended with; everything but ``stages`` is empty when it was stopped by ``until``.

    miou: worst of each precision over its backends, in percent. guesses: mIoU of the baselines, in percent.
    failures: sentences; empty when the gate is passed.
    """

    bundle: Path
    stages: list[Done]
    complete: bool = False
    candidates: list[Candidate] = field(default_factory=list)
    miou: dict[str, float] = field(default_factory=dict)
    guesses: dict[str, float] = field(default_factory=dict)
    preferred: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def report(self) -> Path:
        """The report's file."""
        return self.bundle / "report" / "report.html"

    @property
    def chosen(self) -> Candidate | None:
        """The candidate that the bundle prefers."""
        return next((each for each in self.candidates if each.preferred == self.preferred), None)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "bundle": str(self.bundle),
            "report": str(self.report) if self.complete else None,
            "stages": [done.as_json() for done in self.stages],
            "mIoU_percent": self.miou,
            "baseline_mIoU_percent": self.guesses,
            "candidates": [vars(each) for each in self.candidates],
            "preferred": self.preferred,
            "failures": self.failures,
        }


def work_folder(recipe: Recipe, given: Path | None = None) -> Path:
    """Where a run writes: as given, else as the recipe says, else ``work_dirs/NAME``."""
    return given or recipe.work_dir or Path("work_dirs") / recipe.name


def run_recipe(
    source: str | Path, work_dir: Path | None = None, *, fresh: bool = False, start: str | None = None, until: str | None = None
) -> RunResult:
    """Run a recipe; finished stages whose inputs did not change are skipped, a killed one goes on.

    Args:
        source: see ``load_recipe``.
        work_dir: see ``work_folder``.
        fresh, start, until: see ``run_stages``.

    Raises:
        UserError: the recipe or something it names is wrong.
        CheckFailed: a stage refused its own result.
    """
    recipe = load_recipe(source)
    work = work_folder(recipe, work_dir)
    with explain_write_errors(work):
        work.mkdir(parents=True, exist_ok=True)
    run = Run(recipe, work)
    done = run_stages(run.stages, work / "state.json", fresh=fresh, start=start, until=until)
    return RunResult(run.bundle, done) if until not in (None, "report") else _verdict(run, done)


def _verdict(run: Run, done: list[Done]) -> RunResult:
    gate = run.recipe.validation
    candidates = run.candidates()
    miou = worst(candidates)
    guesses = run.guesses()
    preferred = read_manifest(run.bundle).preferred
    why = failures(miou, guesses, gate.max_drop, gate.min_gain)
    return RunResult(run.bundle, done, True, candidates, miou, guesses, preferred, why)
