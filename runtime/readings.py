"""What a GPU says of itself: lines of nvidia-smi and of Jetson's tegrastats as numbers; the state a number was measured in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segc.core.errors import UserError

SMI_FIELDS = "power.draw,clocks.sm,temperature.gpu,clocks_event_reasons.active"
# NVML's reasons that take speed away, but not idleness and the user's own settings (nvml.h, nvmlClocksEventReason*).
_SLOWDOWNS = {0x04: "power cap", 0x08: "hardware slowdown", 0x20: "hot", 0x40: "hot", 0x80: "power brake"}
_NUMBER = r"(\d+(?:\.\d+)?)"
_RAIL = re.compile(r"\b([A-Z]\w*) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+(?:mW)?)?(?=\s|$)")
_TEMPERATURE = re.compile(rf"\b(\w+)@{_NUMBER}C")
_GPU_CLOCK = re.compile(r"GR3D_FREQ (?:\d+%)?@\[?(\d+)")
# Rails that add up to the module's power; the first that are all there: Thor; Orin Nano and NX, Xavier NX; AGX Orin; AGX Xavier.
_TOTALS = (
    ("VIN",),
    ("VDD_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)


@dataclass(frozen=True)
class Reading:
    """One look at the GPU: W, MHz, degrees Celsius, what slows it down; None where the device does not tell.

    On a Jetson the power is that of the module's rails, elsewhere that of the GPU alone.
    """

    power_w: float | None = None
    clock_mhz: float | None = None
    temperature_c: float | None = None
    slowdowns: frozenset[str] = frozenset()


def read_smi(line: str) -> Reading:
    """A line of ``nvidia-smi --query-gpu=<SMI_FIELDS> --format=csv,noheader,nounits``; "[N/A]" is None, a message an empty reading."""
    fields = [part.strip() for part in line.split(",")]
    if len(fields) != 1 + SMI_FIELDS.count(","):
        return Reading()
    power, clock, temperature, reasons = fields
    mask = int(reasons, 16) if reasons.startswith("0x") else 0
    return Reading(_float(power), _float(clock), _float(temperature), frozenset(text for bit, text in _SLOWDOWNS.items() if mask & bit))


def read_tegrastats(line: str) -> Reading:
    """A line of ``tegrastats``, of any Jetson from Xavier on."""
    rails = {name: int(value) / 1000 for name, value in _RAIL.findall(line)}
    total = next((sum(rails[name] for name in names) for names in _TOTALS if all(name in rails for name in names)), None)
    heat = {name.lower(): float(value) for name, value in _TEMPERATURE.findall(line)}
    clock = _GPU_CLOCK.search(line)
    return Reading(total, float(clock[1]) if clock else None, heat.get("gpu"))


def read_nvpmodel(text: str) -> str:
    """The mode that ``nvpmodel -q`` tells: "MAXN", "15W".

    Raises:
        UserError: it tells none.
    """
    found = re.search(r"NV Power Mode: *(\S+)", text)
    if found is None:
        raise UserError(f"nvpmodel -q tells no power mode, but {text.strip()[:60]!r}.")
    return found[1]


def refuse_other_state(results: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to compare results whose devices were in different states (``device_state`` of a result; a CPU's is empty).

    Raises:
        UserError: names the first field that differs, and both values.
    """
    states = [state for result in results if isinstance(state := result.get("device_state"), dict) and state]
    for state in states[1:]:
        for key in sorted(states[0].keys() | state.keys()):
            if states[0].get(key) != state.get(key):
                raise UserError(
                    f"these runs cannot be compared: {key} was {states[0].get(key)!r} in one, {state.get(key)!r} in another.",
                    "Set one state (nvpmodel, jetson_clocks, nvidia-smi -pl) and measure all in one segc benchmark --all.",
                )


def _float(text: str) -> float | None:
    return float(text) if re.fullmatch(_NUMBER, text) else None
