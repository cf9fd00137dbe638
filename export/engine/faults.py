"""What TensorRT's error messages mean for the user: one sentence, and what mends it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from segc.core.errors import CheckFailed, UserError
from segc.export.engine.worker import Job
from segc.runtime.gpu import find_gpu

_TOLD = 8
_NO_MEMORY = re.compile(r"OutOfMemory|insufficient (?:workspace|memory)|out of memory|requested size was (\d+)", re.IGNORECASE)
_REQUESTED = re.compile(r"[Rr]equested size was (\d+)")
_OLD_DRIVER = re.compile(r"driver version is insufficient|cudaError 35|error:? 35\b")
_OTHER_DEVICE = re.compile(r"no kernel image|unsupported (?:SM|GPU|device)|Target GPU SM \d+ is not supported", re.IGNORECASE)
_DLA = re.compile(r"this device has (\d+) DLA cores")
_PLUGIN = re.compile(r"[Pp]lugin not found|getPluginCreator could not find plugin (\S+)")


def explain(errors: Sequence[str], title: str, graph: str, job: Job) -> UserError | CheckFailed:
    """The error to raise for what a build reported; the library's own words where it is not one that is known."""
    text = " ".join(errors)
    if "plugin library does not load" in text:
        return UserError(f"{title} does not load {', '.join(job.plugins)}: built for another TensorRT or processor?", "segc plugins build")
    if job.plugins and _PLUGIN.search(text):
        return UserError(f"{title} finds no plugin for a node of {graph}: {errors[0]}", "--plugins off, or segc plugins build")
    if found := _DLA.search(text):
        return UserError(f"{errors[0].partition(': ')[2]}.", "Leave dla_core out." if found[1] == "0" else "")
    if _NO_MEMORY.search(text):
        return _out_of_memory(text, title, graph, job)
    # Behind another error it is noise: TensorRT-RTX says it of every machine without a GPU.
    if _OLD_DRIVER.search(errors[0].partition("\n")[0]):
        gpu = find_gpu()
        has = f"has one for CUDA {gpu.driver_cuda}" if gpu else "has none, or an older one"
        return UserError(f"{title} needs a newer NVIDIA driver for this, and this machine {has}: {errors[0][:200]}", "Update the driver.")
    if _OTHER_DEVICE.search(text):
        return UserError(f"{title} does not support this GPU: {errors[0][:200]}", "Its support matrix names the versions that do.")
    return CheckFailed(f"{title} refuses {graph} with {len(errors)} errors: {'; '.join(errors[:_TOLD])}")


def _out_of_memory(text: str, title: str, graph: str, job: Job) -> UserError:
    limit, wanted = job.settings.get("workspace_mib"), _REQUESTED.search(text)
    needs = f" (a layer asks for {int(wanted[1]) / 2**20:.1f} MiB)" if wanted else ""
    allowed = f"workspace_mib is {limit}" if limit else "the device's memory is used up"
    fix = "Give a larger --engine-option workspace_mib, or leave it out." if limit else "Free memory, or export smaller images or batches."
    return UserError(f"{title} runs out of memory while building {graph}: {allowed}{needs}.", fix)
