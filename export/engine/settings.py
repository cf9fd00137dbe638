"""What a user may ask of an engine build, the same for every flavour; the precision is not here: the graph carries it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.runtime.bundle import Profile, first_error

Shape = tuple[int, int, int]
_AXES = ("batch", "height", "width")


def _numbers(value: Any) -> Any:
    """``4x512x1024`` as (4, 512, 1024)."""
    return tuple(value.split("x")) if isinstance(value, str) else value


class EngineSettings(BaseModel):
    """Settings of a build.

    compute_capability: of the GPU it is for ("8.6"); None is the GPU of this machine. min, opt, max: shapes (batch, height, width) of the
    optimisation profile, for the axes that are dynamic in the graph. workspace_mib: memory a layer's kernel may take; None is all there is.
    optimization_level: 0 (fast build) to 5 (searches longest); None is TensorRT's own. hardware_compatible: runs on every GPU from Ampere
    on, version_compatible: on later TensorRT versions, both somewhat slower. refittable: weights can be replaced; strip_weights: they are
    left out and must be refitted. dla_core: a Jetson's DLA, gpu_fallback: the GPU takes the layers that it cannot. implicit_int8: int8 by
    TensorRT's own choice from the calibration table (TensorRT 10 only), instead of Q/DQ in the graph. timing_cache: keep measured kernels
    for the next build. timeout_s: seconds after which a build is ended.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")] | None = None
    min: Annotated[Shape | None, BeforeValidator(_numbers)] = None
    opt: Annotated[Shape | None, BeforeValidator(_numbers)] = None
    max: Annotated[Shape | None, BeforeValidator(_numbers)] = None
    workspace_mib: Annotated[int, Field(gt=0)] | None = None
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    refittable: bool = False
    strip_weights: bool = False
    dla_core: Annotated[int, Field(ge=0)] | None = None
    gpu_fallback: bool = True
    implicit_int8: bool = False
    timing_cache: bool = True
    timeout_s: Annotated[float, Field(gt=0)] = 3600.0

    @model_validator(mode="after")
    def _one_capability_is_enough(self) -> EngineSettings:
        if self.hardware_compatible and self.compute_capability is not None:
            raise ValueError("hardware_compatible is for every GPU from Ampere on, compute_capability for one: give one of them")
        return self

    def told(self) -> dict[str, Any]:
        """Those that are not at their defaults, JSON-ready."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def deciding(self) -> dict[str, Any]:
        """Those of ``told`` that decide what the engine is: neither how long its build may take nor whether that is sped up."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"timeout_s", "timing_cache"})


def parse_settings(pairs: Sequence[str], **given: Any) -> EngineSettings:
    """Settings of ``KEY=VALUE`` words and of options that have a name of their own (None: not given).

    Raises:
        UserError: a word without ``=``, an unknown key (the nearest is named) or a value out of its range.
    """
    values = {key: value for key, value in given.items() if value is not None}
    for pair in pairs:
        key, mark, value = pair.partition("=")
        if not mark:
            raise UserError(f"--engine-option {pair!r} is not KEY=VALUE.", "For example: --engine-option workspace_mib=1024")
        values[key.strip()] = value.strip()
    try:
        return EngineSettings.model_validate(values)
    except ValidationError as error:
        raise UserError(_told_problem(error)) from error


def _told_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    if not problem["loc"]:
        return f"{problem['msg'].removeprefix('Value error, ')}."
    return f"--engine-option: {first_error(error, EngineSettings)}"


def profile_of(contract: Contract, settings: EngineSettings) -> Profile:
    """The shapes the engine takes: the contract's where it is static, the settings' elsewhere.

    Raises:
        UserError: a dynamic axis without bounds, bounds that are not ordered, or that do not contain a static axis.
    """
    axes = (contract.batch, contract.height, contract.width)
    opt = _filled(axes, settings.opt, "opt")
    low, high = (_filled(axes, shape or settings.opt, name) for name, shape in (("min", settings.min), ("max", settings.max)))
    for name, smallest, best, largest in zip(_AXES, low, opt, high, strict=True):
        if not 0 < smallest <= best <= largest:
            raise UserError(
                f"the optimisation profile's {name} is min {smallest}, opt {best}, max {largest}; expected min <= opt <= max.",
                "Give --engine-option min=NxHxW, opt=NxHxW and max=NxHxW in this order.",
            )
    return Profile(min=low, opt=opt, max=high)


def _filled(axes: tuple[int | None, ...], shape: Shape | None, which: str) -> Shape:
    if shape is None:
        missing = [name for name, axis in zip(_AXES, axes, strict=True) if axis is None]
        if missing:
            raise UserError(
                f"the graph's {' and '.join(missing)} are dynamic, so that the engine needs a profile.",
                "Give --engine-option min=1x512x512 --engine-option opt=1x512x1024 --engine-option max=4x1024x2048 (NxHxW).",
            )
        return tuple(axes)  # type: ignore[return-value]
    for name, axis, wanted in zip(_AXES, axes, shape, strict=True):
        if axis is not None and axis != wanted:
            raise UserError(
                f"the profile's {which} has {name} {wanted}, which the graph does not take: it is made for {name} {axis}.",
                f"Give {name} {axis}, or export the graph again with --input-size dynamic, --batch dynamic.",
            )
    return shape
