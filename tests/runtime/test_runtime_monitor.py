"""Power, clocks and temperature: lines that real devices printed (public logs), a fake nvidia-smi and tegrastats, states that differ."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from toy import make_bundle

from segc.core.errors import UserError
from segc.core.rows import value_of
from segc.runtime.benchmark import benchmark_many, pick_preferred
from segc.runtime.monitor import Monitor, device_state, gpu_memory
from segc.runtime.readings import Reading, read_nvpmodel, read_smi, read_tegrastats, refuse_other_state

AGX_XAVIER_OLD = (
    "RAM 10881/31919MB (lfb 4230x4MB) SWAP 0/15959MB (cached 0MB) CPU [17%@1190,17%@1190,18%@1190,25%@1190,17%@1336,15%@1340,23%@1543,"
    "15%@1574] EMC_FREQ 55%@2133 GR3D_FREQ 95%@1377 APE 150 MTS fg 0% bg 10% AO@48C GPU@54.5C Tdiode@53.25C PMIC@100C AUX@46C CPU@49C "
    "thermal@49.45C Tboard@47C GPU 18401/18525 CPU 2301/2330 SOC 4602/4602 CV 0/0 VDDRQ 2914/2911 SYS5V 4632/4620"
)
AGX_XAVIER = (
    "[0%@1190,1%@1190,0%@1190,0%@1189,0%@1190,0%@1191,0%@1190,0%@1190] EMC_FREQ 0%@1331 GR3D_FREQ 0%@114 VIC_FREQ 115 APE 150 AUX@36C "
    "CPU@36.5C thermal@35.7C Tboard@37C AO@35C GPU@35C Tdiode@38.75C PMIC@50C GPU 467mW/467mW CPU 467mW/467mW SOC 1245mW/1245mW "
    "CV 0mW/0mW VDDRQ 311mW/311mW SYS5V 2768mW/2768mW"
)
AGX_ORIN = (
    "RAM 13123/62841MB (lfb 63x4MB) SWAP 9/31420MB (cached 0MB) CPU [3%@729,4%@729,1%@729,4%@729,1%@729,3%@729,2%@729,1%@729,4%@729,"
    "2%@729,1%@729,1%@729] GR3D_FREQ 0% cpu@48.156C soc2@43.562C soc0@45.125C tj@48.156C soc1@44.343C VDD_GPU_SOC 3193mW/3193mW "
    "VDD_CPU_CV 399mW/399mW VIN_SYS_5V0 4306mW/4306mW"
)
AGX_ORIN_JETPACK_7 = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201,4%@2201,14%@2201,30%@2201,18%@2201,10%@2201,10%@2201,"
    "33%@2201,7%@2201,5%@2201,27%@2201] EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300] NVENC0 off NVDEC0 off NVJPG0 off NVJPG1 off VIC off "
    "OFA off NVDLA0 off NVDLA1 off PVA0_FREQ off APE 174 cpu@52.968C/52.968C soc2@48.406C/48.406C soc0@49.531C/49.531C "
    "gpu@47.625C/47.625C VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
ORIN_NANO = (
    "05-05-2025 06:05:39 RAM 2639/7620MB (lfb 9x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729,4%@729,8%@729,4%@729,5%@729,4%@729] "
    "GR3D_FREQ 0% cpu@44.156C soc2@43.781C soc0@44.687C gpu@45.968C tj@45.968C soc1@45.312C VDD_IN 5263mW/5263mW "
    "VDD_CPU_GPU_CV 717mW/717mW VDD_SOC 1794mW/1794mW"
)
THOR_CLOCKS = "RAM 4722/7844MB (lfb 1x512kB) EMC_FREQ 2%@1866 GR3D_FREQ @[1000,1000,1000] APE 150"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (AGX_XAVIER_OLD, Reading(18.401 + 2.301 + 4.602 + 2.914 + 4.632, 1377, 54.5)),
        (AGX_XAVIER, Reading(0.467 + 0.467 + 1.245 + 0.311 + 2.768, 114, 35)),
        (AGX_ORIN, Reading(3.193 + 0.399 + 4.306, None, None)),
        (AGX_ORIN_JETPACK_7, Reading(5.139 + 3.268 + 5.5, 1300, 47.625)),
        (ORIN_NANO, Reading(5.263, None, 45.968)),
        (THOR_CLOCKS, Reading(None, 1000, None)),
        ("", Reading()),
    ],
)
def test_tegrastats_of_real_boards(line: str, expected: Reading) -> None:
    found = read_tegrastats(line)
    assert found.power_w == (None if expected.power_w is None else pytest.approx(expected.power_w))
    assert (found.clock_mhz, found.temperature_c) == (expected.clock_mhz, expected.temperature_c)


def test_nvidia_smi() -> None:
    assert read_smi("71.53, 1980, 34, 0x0000000000000000") == Reading(71.53, 1980, 34)
    assert read_smi("[N/A], 210, 41, 0x0000000000000001") == Reading(None, 210, 41), "idleness is no slowdown"
    assert read_smi("149.9, 1200, 84, 0x0000000000000024").slowdowns == {"power cap", "hot"}
    assert read_smi("20.1, 300, 40, [Not Supported]") == Reading(20.1, 300, 40)
    assert read_smi('Field "clocks_event_reasons.active" is not a valid field to query.') == Reading()


def test_nvpmodel() -> None:
    assert read_nvpmodel("NV Power Mode: MAXN\n0\n") == "MAXN" and read_nvpmodel("NVPM VERB: x\nNV Power Mode: MODE_15W\n2") == "MODE_15W"
    with pytest.raises(UserError, match="tells no power mode"):
        read_nvpmodel("permission denied")


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


SMI = """case "$*" in
*compute-apps*) echo "77, 312"; echo "78, [N/A]";;
*power.limit*) echo "NVIDIA A2000, 580.65.06, 70.00 W";;
*) while :; do echo "50.0, 1500, 60, 0x0000000000000004"; sleep 0.01; done;;
esac"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH where the device's tools are what the test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def wait_for(monitor: Monitor, count: int) -> None:
    end = time.monotonic() + 20
    while len(monitor.readings) < count and time.monotonic() < end:
        time.sleep(0.005)


def test_without_a_gpu_there_is_nothing_to_say(path: Path) -> None:
    with Monitor() as monitor:
        assert monitor.rows([(0.0, 1e9)], 5) == [] and device_state() == {} and gpu_memory(77) is None


def test_power_and_energy_of_the_spans(path: Path) -> None:
    tool(path, "nvidia-smi", SMI)
    with Monitor() as monitor:
        wait_for(monitor, 3)
        start = time.perf_counter()
        wait_for(monitor, len(monitor.readings) + 3)
        span = (start, time.perf_counter())
        wait_for(monitor, len(monitor.readings) + 3)
    rows = {metric: (value, unit, n) for metric, value, unit, n in monitor.rows([span], images=10)}
    power, unit, n = rows["power_mean"]
    assert (power, unit) == (50, "W") and 3 <= n < len(monitor.readings) - 3, "only what was read in the span counts"
    assert rows["energy_per_image"][0] == pytest.approx(50 * (span[1] - span[0]) / 10)
    assert rows["gpu_clock_median"][:2] == (1500, "MHz") and rows["slowed_down_share"][:2] == (100, "%")
    assert device_state() == {"gpu": "NVIDIA A2000", "driver": "580.65.06", "power_limit": "70.00 W"}
    assert gpu_memory(77) == 312 and gpu_memory(78) is None
    assert monitor._process is not None and monitor._process.poll() is not None, "nvidia-smi is ended"


def test_a_jetson(path: Path) -> None:
    tool(path, "nvpmodel", 'echo "NV Power Mode: 15W"; echo 0')
    tool(path, "tegrastats", f'while :; do echo "{ORIN_NANO}"; sleep 0.01; done')
    with Monitor() as monitor:
        wait_for(monitor, 2)
        rows = monitor.rows([(0.0, 1e9)], 1)
    assert rows[0][:3] == ("power_mean", pytest.approx(5.263), "W") and device_state() == {"power_mode": "15W"}


def test_runs_of_different_states_are_not_compared() -> None:
    def run(**state: Any) -> dict[str, Any]:
        return {"backend": "tensorrt", "precision": "fp16", "rows": [], "device_state": state}

    refuse_other_state([run(power_mode="15W"), run(power_mode="15W"), run(), {"rows": []}])
    with pytest.raises(UserError, match=r"power_mode was '15W' in one, 'MAXN' in another.*nvpmodel"):
        refuse_other_state([run(power_mode="15W"), run(), run(power_mode="MAXN")])
    with pytest.raises(UserError, match="driver was '580' in one, None"):
        pick_preferred([run(driver="580"), run(gpu="A2000")])


def test_a_benchmark_tells_power_where_there_is_a_gpu(path: Path, tmp_path: Path) -> None:
    tool(path, "nvidia-smi", SMI)
    (result,) = benchmark_many([(str(make_bundle(tmp_path / "bundle")), "onnxruntime")], threads=1, warmup=1, runs=10)
    assert value_of(result, "power_mean") == 50 and value_of(result, "energy_per_image") > 0
    assert result["device_state"]["power_limit"] == "70.00 W"


def test_a_state_that_changes_meanwhile_is_refused(path: Path, tmp_path: Path) -> None:
    tool(path, "nvpmodel", f'echo x >> {tmp_path}/asked; echo "NV Power Mode: $(wc -l < {tmp_path}/asked)W"')
    with pytest.raises(UserError, match="power_mode was '1W' in one, '2W' in another"):
        benchmark_many([(str(make_bundle(tmp_path / "bundle")), "onnxruntime")], threads=1, warmup=1, runs=2)
