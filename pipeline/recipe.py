"""The recipe: one whole compression run as YAML, checked before any work is done."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segc.core.errors import UserError, nearest
from segc.runtime.bundle import first_error

SHIPPED = "segc::"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Train(_Section):
    """How the network gets its weights."""

    overrides: dict[str, Any] = Field(default={}, description="Dotted keys of the config -> values, e.g. train_cfg.max_iters: 700.")
    weights: Path | None = Field(default=None, description="Take this checkpoint and do not train.")
    seed: int = Field(default=0, description="Seed of weights and data order.")


class Data(_Section):
    """The labelled images; left out: the embedded dataset."""

    root: Path | None = Field(default=None, description="Folder of the dataset; it replaces the one named in the config.")
    layout: str | None = Field(default=None, description="Name of the folder layout (segc data list); left out: detected.")
    split: str = Field(default="val", description="Split that validation reads; calibration always reads 'train'.")


class Export(_Section):
    """The deploy graph."""

    input_size: tuple[int, int] | None = Field(default=None, description="[height, width] of the images; left out: the config's.")
    batch: int | None = Field(default=1, ge=1, description="Images a run; null: any number.")
    output: Literal["argmax", "logits", "probabilities"] = Field(default="argmax", description="What the graph gives.")
    opset: int = Field(default=20, ge=17, description="ONNX operator set.")


class Calibrate(_Section):
    """The images and the rule that give the int8 ranges."""

    images: Path | None = Field(default=None, description="Folder of images; left out: the dataset's training images.")
    count: int = Field(default=64, ge=1, description="How many images.")
    method: Literal["minmax", "percentile", "mse", "entropy"] = Field(default="percentile", description="Rule that gives the ranges.")
    select: Literal["coverage", "random", "k-center"] | None = Field(
        default=None, description="Rule that chooses the images; left out: coverage of the classes where there are labels, else random."
    )
    seed: int = Field(default=0, description="Seed of the choice of images.")
    equalize: bool = Field(default=False, description="Even out the channels of neighbouring weights first.")
    smooth_quant: float | None = Field(
        default=None, ge=0, le=1, description="Move differences between channels of activations into weights first: SmoothQuant's alpha."
    )


class Quantize(_Section):
    """The int8 graph."""

    enabled: bool = Field(default=True, description="false: no int8 graph is made, fp32 is what is validated and measured.")
    precisions: dict[str, Literal["int8", "int8-fp16", "fp16", "fp32"]] = Field(
        default={},
        description="Block of the network (segc sensitivity shows them) -> its precision; the others are int8. segc search finds them.",
    )
    keep: list[str] = Field(default=[], description="Names of nodes to leave in float.")
    chains: bool = Field(default=True, description="Keep what lies between int8 convolutions in int8 too.")
    bias_correction: bool = Field(default=False, description="Take each layer's mean error on the calibration images from its bias.")
    least_agreement: float = Field(
        default=0.9, ge=0, le=1, description="Share of pixels with the class of fp32 below which the graph counts as broken."
    )


class Validate(_Section):
    """The accuracy gate: the run fails (exit code 1) when the network learned nothing or int8 lost too much."""

    limit: int | None = Field(default=None, ge=1, description="Only the first N images; left out: all.")
    max_drop: float = Field(default=1.0, ge=0, description="Largest loss of mIoU from fp32 to int8, in points.")
    min_gain: float = Field(default=10.0, ge=0, description="Least mIoU above the best baseline (one class, random), in points.")


class Benchmark(_Section):
    """Latency of every precision on every backend."""

    backends: list[str] | None = Field(default=None, description="Names of backends; left out: all that are installed.")
    runs: int = Field(default=50, ge=1, description="Timed runs.")
    warmup: int = Field(default=5, ge=0, description="Runs before the timed ones.")
    threads: int | None = Field(default=None, ge=1, description="CPU threads inside one run; left out: all cores.")


class Report(_Section):
    """The report; it has no options yet."""


class Recipe(_Section):
    """train -> export -> calibrate -> quantize -> validate -> benchmark -> report."""

    name: str = Field(description="Name of the run and of its bundle.")
    work_dir: Path | None = Field(default=None, description="Folder of everything the run writes; left out: work_dirs/NAME.")
    config: str = Field(description="mmseg config: a path, mmseg::NAME.py or segc::NAME.py.")
    train: Train = Train()
    data: Data = Data()
    export: Export = Export()
    calibrate: Calibrate = Calibrate()
    quantize: Quantize = Quantize()
    validation: Validate = Field(default=Validate(), alias="validate")
    benchmark: Benchmark = Benchmark()
    report: Report = Report()

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default filled in, JSON-ready, as the bundle stores it."""
        return self.model_dump(mode="json", by_alias=True)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error, and so is an alias: a few can stand for more than memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node, where it is no alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*name): write the value out", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are unique."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, f"a {type(key).__name__} as a key", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe; ``segc::recipes/quickstart.yaml`` names one that is installed with the package.

    Raises:
        UserError: it is not there.
    """
    text = str(source)
    if not text.startswith(SHIPPED):
        path = Path(text)
    else:
        from segc import configs

        path = Path(str(configs.__file__)).parent / text.removeprefix(SHIPPED)
    if not path.is_file():
        raise UserError(f"recipe {text} does not exist.", "Try segc run segc::recipes/quickstart.yaml")
    return path


def load_recipe(source: str | Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        UserError: missing, not YAML, a key twice, an unknown key (with the nearest known name) or a wrong value.
    """
    path = find_recipe(source)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:  # ValueError: a date or a number that is none
        raise UserError(f"recipe {path} cannot be read: {_yaml_problem(error)}.") from error
    if not isinstance(content, dict):
        raise UserError(f"recipe {path} holds a {type(content).__name__}; expected keys such as name, config, train.")
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"recipe {path}: {_explain(error)}", "See the keys: docs/recipes.md") from error


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    if problem["type"] != "extra_forbidden":
        return first_error(error)
    where = [str(part) for part in problem["loc"]]
    sections = {field.alias or name: field.annotation for name, field in Recipe.model_fields.items()}
    section = sections.get(where[0])
    inner = isinstance(section, type) and issubclass(section, _Section) and len(where) > 1
    return f"unknown key {'.'.join(where)!r}.{nearest(where[-1], section.model_fields if inner else sections)}"  # type: ignore[union-attr]


def _yaml_problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error)


def show(recipe: Recipe) -> str:
    """The resolved recipe as YAML, the meaning of each key in a comment above it; it can be read back."""
    lines: list[str] = []
    for name, field in Recipe.model_fields.items():
        value, key = getattr(recipe, name), field.alias or name
        if isinstance(value, _Section):
            lines += ["", *_comment(value.__doc__, ""), f"{key}:" if type(value).model_fields else f"{key}: {{}}"]
            for inner, inner_field in type(value).model_fields.items():
                lines += _entry(inner, getattr(value, inner), inner_field.description, "  ")
        else:
            lines += _entry(key, value, field.description, "")
    return "\n".join(lines) + "\n"


def _entry(key: str, value: Any, description: str | None, indent: str) -> list[str]:
    plain = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    flow = yaml.safe_dump([plain], default_flow_style=True, sort_keys=False, width=10**6).strip()[1:-1]
    return [*_comment(description, indent), f"{indent}{key}: {flow}"]


def _comment(text: str | None, indent: str) -> list[str]:
    return textwrap.wrap(text or "", 78, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
