"""A bundle's engines: where they lie, which shapes they take, and that a changed or missing file is not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.core.files import sha256_file, write_json
from segc.runtime.bundle import Engine, Manifest, Profile, engine_file, engine_path, read_manifest, write_manifest


def an_engine(**changes: object) -> Engine:
    shape = (1, 64, 96)
    entry = Engine(
        file="engines/rtx-1.7.1.116-sm86/fp16.engine",
        sha256="0" * 64,
        precision="fp16",
        graph_sha256="1" * 64,
        flavour="rtx",
        version="1.7.1.116",
        compute_capability="8.6",
        machine="x86_64 Linux",
        profile=Profile(min=shape, opt=shape, max=shape),
        command="tensorrt_rtx --onnx=model.fp16.onnx",
    )
    return entry.model_copy(update=changes)


def a_manifest(*engines: Engine) -> Manifest:
    contract = Contract(classes=["road"], palette=[(0, 0, 0)], height=64, width=96, mean=(0, 0, 0), std=(1, 1, 1))
    return Manifest(name="b", contract=contract, graphs={}, engines=list(engines))


def test_engines_come_back_as_written_and_old_bundles_have_none(tmp_path: Path) -> None:
    write_manifest(tmp_path, a_manifest(an_engine()))
    assert read_manifest(tmp_path).engines == [an_engine()]
    old = a_manifest().model_dump(mode="json")
    del old["engines"]
    write_json(tmp_path / "bundle.json", old)
    assert read_manifest(tmp_path).engines == []


def test_each_target_has_a_file_of_its_own() -> None:
    assert engine_file(an_engine()) == an_engine().file
    orin = an_engine(flavour="10", version="10.3.0", compute_capability="8.7", dla_core=0, precision="int8")
    assert engine_file(orin) == "engines/trt-10.3.0-sm87-dla/int8.engine"


def test_a_profile_contains_what_lies_between_its_ends() -> None:
    profile = Profile(min=(1, 64, 64), opt=(2, 128, 128), max=(4, 256, 512))
    assert profile.contains((4, 64, 512)) and not profile.contains((5, 64, 64)) and not profile.contains((1, 63, 64))


def test_an_engine_that_is_gone_changed_or_outside_is_refused(tmp_path: Path) -> None:
    engine = an_engine()
    with pytest.raises(UserError, match=r"not there.*segc export .* --engine fp16 --flavour rtx$"):
        engine_path(tmp_path, engine)
    path = tmp_path / engine.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"plan")
    with pytest.raises(UserError, match="altered after it was written"):
        engine_path(tmp_path, engine)
    assert engine_path(tmp_path, an_engine(sha256=sha256_file(path))) == path
    write_manifest(tmp_path, a_manifest(an_engine(file="../other.engine")))
    with pytest.raises(UserError, match="outside itself"):
        read_manifest(tmp_path)
