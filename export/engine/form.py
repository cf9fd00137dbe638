"""Plugins or not: which form of the graph an engine is built from, and why.

A graph of ours holds each of our operators as one node of the domain ``segc`` and its body as a function. TensorRT's parser takes the body
where there is one; without it, it asks for a plugin. So the form with plugins is the same graph without the bodies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnx import ModelProto

from segc.core.errors import UserError
from segc.export.engine.flavour import Flavour
from segc.ops.onnx_functions.signature import DOMAIN
from segc.ops.tensorrt.library import PluginLibrary, check_library, choose_library, find_libraries, read_library

Choice = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Form:
    """The form chosen: the libraries whose plugins the engine takes (none: the bodies), and one sentence that says why."""

    libraries: tuple[PluginLibrary, ...]
    reason: str


def choose_form(model: ModelProto, choice: Choice, flavour: Flavour, compute_capability: str | None, named: Sequence[Path] = ()) -> Form:
    """Choose between plugins and bodies for a graph.

    Args:
        named: libraries the user names; without them those of ``find_libraries``.

    Raises:
        UserError: plugins were asked for and cannot be had, or a named library does not fit.
    """
    nodes = Counter(node.op_type for node in model.graph.node if node.domain == DOMAIN)
    what = ", ".join(f"{count} {name}" for name, count in sorted(nodes.items()))
    if not nodes:
        return Form((), "plugins are not needed: the graph has standard operators only")
    if not flavour.hosts_plugins:
        if choice == "on":
            raise UserError(
                f"--plugins on: networks of {flavour.title} have no plugin layers.", "--plugins off takes the operators' bodies."
            )
        return Form((), f"plugins off: networks of {flavour.title} have no plugin layers, {what} are built from their ONNX bodies")
    if choice == "off":
        return Form((), f"plugins off, as asked: {what} are built from their ONNX bodies")
    library = _library(named, flavour, compute_capability, must=choice == "on")
    if library is None:
        return Form((), f"plugins off: no library fits (segc plugins build); {what} are built from their ONNX bodies")
    return Form((library,), f"plugins on: {what} from {library.path.name}")


def without_bodies(model: ModelProto) -> ModelProto:
    """A copy of the graph that holds our operators as nodes only."""
    copy = ModelProto()
    copy.CopyFrom(model)
    kept = [function for function in copy.functions if function.domain != DOMAIN]
    del copy.functions[:]
    copy.functions.extend(kept)
    return copy


def _library(named: Sequence[Path], flavour: Flavour, compute_capability: str | None, must: bool) -> PluginLibrary | None:
    if named:
        library = read_library(named[0])
        check_library(library, flavour.version, compute_capability)
        return library
    found = find_libraries()
    fitting = choose_library(found, flavour.version, compute_capability)
    if fitting is None and must:
        if found:
            check_library(found[0], flavour.version, compute_capability)
        raise UserError("--plugins on: no plugin library was built on this machine.", "segc plugins build, or --plugins off.")
    return fitting
