"""The same build as a line for NVIDIA's own tool (trtexec, tensorrt_rtx): to repeat it without segc, and to say exactly what was built."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from segc.core.contract import INPUT
from segc.export.engine.flavour import Flavour
from segc.export.engine.settings import EngineSettings
from segc.runtime.bundle import Profile


def command_line(
    flavour: Flavour,
    settings: EngineSettings,
    profile: Profile,
    graph: str,
    engine: str,
    plugins: Sequence[Path] = (),
    calibration_cache: str | None = None,
) -> str:
    """The line, quoted for a shell.

    Args:
        graph, engine: names of the ONNX file to read and the engine to write.
        plugins: libraries to load and embed. calibration_cache: of implicit int8.
    """
    words = ["tensorrt_rtx" if flavour.name == "rtx" else "trtexec", f"--onnx={graph}", f"--saveEngine={engine}", "--skipInference"]
    words += _target(flavour, settings)
    if profile.min != profile.max:
        words += [f"--{name}Shapes={INPUT}:{'x'.join(map(str, (*getattr(profile, name), 3)))}" for name in ("min", "opt", "max")]
    if settings.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{settings.workspace_mib}")
    if settings.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={settings.optimization_level}")
    words += [word for wanted, word in _flags(settings).items() if getattr(settings, wanted)]
    words += [] if calibration_cache is None else ["--int8", "--fp16", f"--calib={calibration_cache}"]
    for path in plugins:
        words += [f"--dynamicPlugins={path}", f"--setPluginsToSerialize={path}"]
    return shlex.join([*words, "--profilingVerbosity=detailed"])


def _target(flavour: Flavour, settings: EngineSettings) -> list[str]:
    if flavour.name == "rtx":
        wanted = settings.compute_capability
        return ["--useGpu"] if wanted is None else [f"--computeCapabilities={wanted.replace('.', '')}"]
    words = [] if flavour.name == "11" or settings.implicit_int8 else ["--stronglyTyped"]
    if settings.dla_core is not None:
        words += [f"--useDLACore={settings.dla_core}", *(["--allowGPUFallback"] if settings.gpu_fallback else [])]
    return words


def _flags(settings: EngineSettings) -> dict[str, str]:
    return {
        "hardware_compatible": "--hardwareCompatibilityLevel=ampere+",
        "version_compatible": "--versionCompatible",
        "refittable": "--refit",
        "strip_weights": "--stripWeights",
    }
