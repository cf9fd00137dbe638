"""Building, storing and loading networks; checkpoints of other people."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from segc.core.errors import UserError
from segc.models.checkpoint import weights_sha256
from segc.models.config import decode_config, encode_config, load_config, parse_config_text, without_pretrained
from segc.models.network import Network, load_network, save_network

CONFIG = "mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py"
OTHER = "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(CONFIG, None, random_weights=True)


def _same(found: Network, expected: Network) -> bool:
    ours, theirs = found.model.state_dict(), expected.model.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _mmengine_checkpoint(network: Network, **meta: Any) -> dict[str, Any]:
    from mmengine.logging import HistoryBuffer

    history = HistoryBuffer([1.0, 0.5], [1, 1])
    return {
        "meta": {"epoch": 0, "iter": np.int64(20), "dataset_meta": {"classes": tuple(network.classes), "palette": network.palette}, **meta},
        "state_dict": network.model.state_dict(),
        "message_hub": {"log_scalars": {"train/loss": history}, "runtime_info": {"lr": np.float64(0.1), "at": np.arange(3)}},
    }


def test_a_built_network_is_ready_for_inference(network: Network) -> None:
    assert not network.model.training
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in network.model.modules())
    assert (len(network.classes), network.classes[0], network.palette[0]) == (19, "road", (128, 64, 128))


def test_safetensors_keep_everything(network: Network, tmp_path: Path) -> None:
    save_network(network, tmp_path / "net.safetensors")
    found = load_network(None, tmp_path / "net.safetensors")
    assert _same(found, network)
    assert found.cfg.to_dict() == network.cfg.to_dict()
    assert (found.classes, found.palette) == (network.classes, network.palette)


def test_equal_networks_are_equal_files(network: Network, tmp_path: Path) -> None:
    written = [tmp_path / f"{index}.safetensors" for index in range(4)]
    for path in written:
        save_network(network, path)
    assert len({path.read_bytes() for path in written}) == 1


def test_the_hash_of_weights_is_that_of_the_tensors(network: Network, tmp_path: Path) -> None:
    """Not of the file, whose metadata has no fixed order."""
    save_network(network, tmp_path / "net.safetensors")
    torch.save(network.model.state_dict(), tmp_path / "net.pth")
    first = weights_sha256(tmp_path / "net.safetensors")
    assert weights_sha256(tmp_path / "net.pth") == first
    state = {**network.model.state_dict(), "decode_head.conv_seg.bias": network.model.state_dict()["decode_head.conv_seg.bias"] + 1e-3}
    torch.save(state, tmp_path / "other.pth")
    assert weights_sha256(tmp_path / "other.pth") != first


def test_checkpoints_that_mmengine_saves_are_read(network: Network, tmp_path: Path) -> None:
    from mmengine.runner import save_checkpoint

    save_checkpoint(_mmengine_checkpoint(network, cfg=network.cfg.pretty_text), str(tmp_path / "iter_20.pth"))
    found = load_network(None, tmp_path / "iter_20.pth")
    assert _same(found, network)
    assert found.cfg.to_dict() == network.cfg.to_dict()


def test_mmseg_0_checkpoints_and_plain_state_dicts_are_read(network: Network, tmp_path: Path) -> None:
    classes = [f"class {index}" for index in range(19)]
    old = {"meta": {"CLASSES": classes, "PALETTE": [[index] * 3 for index in range(19)]}, "state_dict": network.model.state_dict()}
    torch.save(old, tmp_path / "old.pth")
    torch.save({f"module.{name}": tensor for name, tensor in network.model.state_dict().items()}, tmp_path / "plain.pth")
    found = load_network(CONFIG, tmp_path / "old.pth")
    assert (found.classes, found.palette[3]) == (classes, (3, 3, 3))
    assert _same(load_network(CONFIG, tmp_path / "plain.pth"), network)


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_with_code_is_refused_and_never_run(network: Network, tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "owned"
    content = {"state_dict": network.model.state_dict(), "meta": {"x": _Malicious(target)}}
    torch.save(content, tmp_path / "evil.pth", pickle_protocol=protocol)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Malicious(target), protocol=protocol))
    for name in ("evil.pth", "raw.pth"):
        with pytest.raises(UserError, match=name):
            load_network(CONFIG, tmp_path / name)
    assert not target.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert target.exists(), "the pickle was harmless: this test would prove nothing"


class _Getattr:
    """The pickle's way from an allowed class to its globals."""

    def __reduce__(self) -> Any:
        from mmengine.logging import HistoryBuffer

        return getattr, (HistoryBuffer.__init__, "__globals__")


def test_getattr_in_a_pickle_reaches_nothing(tmp_path: Path) -> None:
    from segc.models.checkpoint import read_checkpoint

    torch.save({"state_dict": {"w": torch.zeros(1)}, "meta": {"reached": _Getattr()}}, tmp_path / "x.pth")
    try:
        assert read_checkpoint(tmp_path / "x.pth").meta["reached"] is None
    except UserError as error:
        assert "x.pth" in str(error)


@pytest.mark.parametrize(
    "text", ["import os", "a = __import__('os')", "a = dict(b=open('x'))", "a = [x for x in y]", "a = b.c", "a.b = 1", "a = (", "a = {**b}"]
)
def test_code_in_a_config_text_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="config text"):
        parse_config_text(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.from_regex(r"[a-z]\w{0,8}", fullmatch=True), inner),
    max_leaves=12,
)


@settings(max_examples=30)
@given(st.dictionaries(st.from_regex(r"key_[a-z0-9]{1,6}", fullmatch=True), VALUES))
def test_configs_survive_json(values: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(encode_config(Config(values))))
    assert repr(decode_config(stored).to_dict()) == repr(Config(values).to_dict())


@settings(max_examples=30)
@given(st.dictionaries(st.from_regex(r"key_[a-z0-9]{1,6}", fullmatch=True), VALUES))
def test_config_text_reads_as_python_would(values: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {value!r}" for key, value in values.items())
    assert repr(parse_config_text(text).to_dict()) == repr(Config(values).to_dict())


def test_objects_in_a_config_are_named(network: Network) -> None:
    with pytest.raises(UserError, match=r"config\.model\.type"):
        encode_config({"model": {"type": Network}})


def test_weights_of_another_network_are_refused(network: Network, tmp_path: Path) -> None:
    torch.save({"state_dict": network.model.state_dict()}, tmp_path / "fast.pth")
    with pytest.raises(UserError, match=r"another network: \d+ missing, \d+ unexpected.*19 classes; the config builds .*150 classes"):
        load_network(OTHER, tmp_path / "fast.pth")
    with pytest.raises(UserError, match=r"of another shape .*conv_seg\.weight \(19, .*instead of \(7, .*7 classes"):
        load_network(CONFIG, tmp_path / "fast.pth", overrides={"model.decode_head.num_classes": 7})


def test_the_auxiliary_head_may_be_absent(network: Network, tmp_path: Path) -> None:
    kept = {name: tensor for name, tensor in network.model.state_dict().items() if not name.startswith("auxiliary_head.")}
    torch.save(kept, tmp_path / "deploy.pth")
    assert not hasattr(load_network(CONFIG, tmp_path / "deploy.pth").model, "auxiliary_head")


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "not a whole"), (b"PK\x03\x04 broken", "not a whole"), (b"hello", "not")], ids=["empty", "zip", "text"]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_checkpoints_are_refused(tmp_path: Path, content: bytes, told: str, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        load_network(CONFIG, path)


def test_a_truncated_checkpoint_is_refused(network: Network, tmp_path: Path) -> None:
    save_network(network, tmp_path / "whole.safetensors")
    torch.save(network.model.state_dict(), tmp_path / "whole.pth")
    for name in ("whole.safetensors", "whole.pth"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(data[: len(data) // 2])
        with pytest.raises(UserError, match=f"cut_{name}"):
            load_network(CONFIG, tmp_path / f"cut_{name}")


@pytest.mark.parametrize(
    ("weights", "random_weights", "told"), [(None, False, "no weights"), ("w.pth", True, "exclude"), ("missing.pth", False, "do not exist")]
)
def test_weights_are_never_guessed(weights: str | None, random_weights: bool, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_network(CONFIG, weights, random_weights=random_weights)


def test_a_checkpoint_without_config_needs_one(network: Network, tmp_path: Path) -> None:
    torch.save(network.model.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(UserError, match="carries no config"):
        load_network(None, tmp_path / "plain.pth")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x51.py", "Nearest: .*segformer_mit-b0_8xb2-160k_ade20k-512x512"),
        ("mmsg::a.py", "Did you mean 'mmseg'"),
        ("nowhere/x.py", "does not exist"),
        ("mmseg::../../../apis/inference.py", "no config"),
        ("mmseg::_base_/default_runtime.py", "describes no network"),
    ],
)
def test_config_names_that_are_wrong(source: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_config(source)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model = dict(", "syntax error"),
        ("model = undefined_name", "undefined_name"),
        ("_base_ = ['nope.py']", "cannot be read"),
        ("a = 1", "no network"),
    ],
)
def test_config_files_that_are_wrong(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UserError, match=told):
        load_config(tmp_path / "bad.py")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("model.decode_head.num_clases", "Did you mean 'num_classes'"),
        ("model.decod_head.num_classes", "Did you mean 'decode_head'"),
        ("modl", "Did you mean 'model'"),
    ],
)
def test_override_keys_with_a_typo(key: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_config(CONFIG, {key: 1})


def test_overrides_leave_the_given_config_alone() -> None:
    cfg = load_config(CONFIG)
    changed = load_config(
        cfg, {"model.decode_head.num_classes": 5, "randomness.seed": 1} if "randomness" in cfg else {"model.decode_head.num_classes": 5}
    )
    assert (cfg.model.decode_head.num_classes, changed.model.decode_head.num_classes) == (19, 5)


def test_unknown_modules_and_arguments_are_named() -> None:
    with pytest.raises(UserError, match="FastSCN is not in"):
        load_network(CONFIG, None, random_weights=True, overrides={"model.backbone.type": "FastSCN"})
    with pytest.raises(UserError, match=r"cannot be built.*colour"):
        load_network(CONFIG, None, random_weights=True, overrides={"model.backbone.colour": 1})


def test_nothing_is_downloaded() -> None:
    model = {
        "pretrained": "https://x/y.pth",
        "backbone": {"init_cfg": {"type": "Pretrained", "checkpoint": "open-mmlab://x"}},
        "list": [{"pretrained": "z"}],
    }
    assert without_pretrained(model) == {"pretrained": None, "backbone": {"init_cfg": None}, "list": [{"pretrained": None}]}
    assert without_pretrained({"init_cfg": {"type": "Normal"}}) == {"init_cfg": {"type": "Normal"}}


def test_class_names_must_match_the_network() -> None:
    with pytest.raises(UserError, match="4 classes, but 19 class names"):
        load_network(CONFIG, None, random_weights=True, overrides={"model.decode_head.num_classes": 4, "model.auxiliary_head": None})


def test_nothing_is_printed_while_building(capsys: pytest.CaptureFixture[str]) -> None:
    load_network(CONFIG, None, random_weights=True)
    assert capsys.readouterr().out == ""


def test_a_full_disk_leaves_no_file(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segc.models.network.save_file", full)
    with pytest.raises(UserError, match="disk is full"):
        save_network(network, tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []
