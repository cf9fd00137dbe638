"""``segc plugins``: the TensorRT plugin library of our operators."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segc.cli.verb import Outcome, verb

if TYPE_CHECKING:
    from segc.ops.tensorrt.library import PluginLibrary

app = typer.Typer(help="Build and list the TensorRT plugin library of our operators.", no_args_is_help=True, rich_markup_mode="rich")


@app.command("build")
@verb
def build(
    arch: Annotated[list[int] | None, typer.Option(help="GPU, compute capability without the dot: 87 is Orin. Default: all known.")] = None,
    include_dir: Annotated[Path | None, typer.Option(help="Folder of NvInferRuntime.h. Default: JetPack's, deb's, tar's, pip's.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Copy the library here; what it is for is written beside.")] = None,
) -> Outcome:
    """Compile the plugin library with nvcc; needs a CUDA toolkit and TensorRT's headers, no GPU.

    Example: segc plugins build --arch 87
    """
    from segc.ops.tensorrt.build import build_plugin
    from segc.ops.tensorrt.library import read_library

    library = read_library(build_plugin(arch, include_dir, output))
    size = library.path.stat().st_size / 2**20
    summary = f"{library.path}: {size:.1f} MiB, {_told(library)}."
    line = f"  segc export BUNDLE --engine fp16 --flavour 10 --plugins on --plugin-library {shlex.quote(str(library.path))}"
    return Outcome(summary, _data(library), ["Next, on the device:", line])


@app.command("list")
@verb
def list_() -> Outcome:
    """List the plugin libraries that ``segc export --engine`` chooses from: that of SEGC_PLUGIN, then those built here.

    Example: segc plugins list
    """
    from rich.table import Table

    from segc.ops.tensorrt.library import find_libraries

    libraries = find_libraries()
    table = Table(title="Plugin libraries")
    for name in ("library", "for"):
        table.add_column(name, overflow="fold")
    for library in libraries:
        table.add_row(str(library.path), _told(library))
    summary = f"{len(libraries)} plugin libraries." if libraries else "no plugin library: segc plugins build."
    return Outcome(summary, {"libraries": [_data(library) for library in libraries]}, [table] if libraries else [])


def _told(library: PluginLibrary) -> str:
    gpus = ", ".join(f"sm_{item}" for item in library.arch) or "GPUs that nothing beside it tells"
    return f"{library.machine}, {gpus}, headers of TensorRT {library.tensorrt or 'of an unknown version'}"


def _data(library: PluginLibrary) -> dict[str, Any]:
    return {
        "library": str(library.path),
        "sha256": library.sha256,
        "machine": library.machine,
        "arch": list(library.arch),
        "tensorrt": library.tensorrt,
    }
