"""``-o KEY=VALUE`` means what it means to mmengine; a key that the config lacks is told with the nearest one."""

from __future__ import annotations

import json
from argparse import ArgumentParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import DictAction
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.errors import UserError
from segc.train.overrides import parse_overrides

CONFIG = "segc::quickstart/quickstart.py"
ATOMS = st.integers() | st.floats(allow_nan=False) | st.sampled_from(["True", "false", "None", "BN", "a.b/c", "1e-3", "'x'", "a b", "x=y"])
TEXTS = st.recursive(
    ATOMS.map(str),
    lambda inner: st.tuples(st.sampled_from(["[]", "()"]), st.lists(inner, max_size=3)).map(
        lambda pair: pair[0][0] + ",".join(pair[1]) + pair[0][1]
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(TEXTS)
def test_values_are_parsed_as_mmengine_parses_them(text: str) -> None:
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    expected = parser.parse_args(["--cfg-options", f"a.b={text}"]).cfg_options
    assert repr(parse_overrides([f"a.b={text}"])) == repr(expected)


def test_a_value_may_hold_equals_signs_and_the_last_one_counts() -> None:
    assert parse_overrides(["a=b=c", "n=1", "n=2", "t=(1,2)", "l=1,2"]) == {"a": "b=c", "n": 2, "t": (1, 2), "l": [1, 2]}


@pytest.mark.parametrize("text", ["max_iters", "=3", ""])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not KEY=VALUE"):
        parse_overrides([text])


@pytest.mark.parametrize("value", ["[1,(2,3]", "[1,2),3]"])
def test_unbalanced_brackets_are_refused(value: str) -> None:
    with pytest.raises(UserError, match="mbalanced"):
        parse_overrides([f"a={value}"])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train_cfg.max_iter=5", "Did you mean 'max_iters'"),
        ("train_dataloder.batch_size=2", "Did you mean 'train_dataloader'"),
        ("optim_wrapper.optimiser.lr=1", "Did you mean 'optimizer'"),
        ("train_dataloader.dataset.pipeline.9.crop_size=1", "pipeline.9"),
        ("max_iters", "not KEY=VALUE"),
    ],
)
def test_a_wrong_override_ends_with_exit_code_2(override: str, told: str) -> None:
    done = CliRunner().invoke(app, ["train", CONFIG, "-o", override, "--json"])
    assert done.exit_code == 2
    assert told in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.output
