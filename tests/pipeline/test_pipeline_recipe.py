"""Recipes: defaults, sentences for mistakes, and the printed recipe reads back as itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from segc.core.errors import UserError
from segc.pipeline.recipe import load_recipe, show


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def test_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "name: n\nconfig: c.py\n"))
    assert recipe.resolved()["validate"]["max_drop"] == 1.0
    assert recipe.export.batch == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: n\nconfig: c\nbenchmrk: {}\n", "unknown key 'benchmrk'. Did you mean 'benchmark'?"),
        ("name: n\nconfig: c\nvalidate: {max_dorp: 1}\n", "unknown key 'validate.max_dorp'. Did you mean 'max_drop'?"),
        ("name: n\nconfig: c\nexport: {batchsize: 1}\n", "unknown key 'export.batchsize'."),
        ("name: n\nname: m\nconfig: c\n", "line 2: key 'name' stands twice"),
        ("name: n\nconfig: c\nexport: {opset: 18, opset: 19}\n", "line 3: key 'opset' stands twice"),
        ("name: !!python/object/apply:os.system [ls]\nconfig: c\n", "could not determine a constructor"),
        ("name: n\nconfig: [\n", "cannot be read: line 3"),
        ("- a\n", "holds a list"),
        ("", "holds a NoneType"),
        ("config: c\n", "name: Field required"),
        ("name: n\nconfig: c\nexport: {opset: 11}\n", "export.opset: Input should be greater than or equal to 17 (found 11)"),
        ("name: n\nconfig: c\nexport: {output: probs}\n", "export.output: Input should be 'argmax'"),
        ("name: n\nconfig: c\nexport: 3\n", "export: Input should be a valid dictionary"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(write(tmp_path, text))
    assert expected in str(caught.value)


def test_missing_recipe() -> None:
    with pytest.raises(UserError, match=r"none\.yaml does not exist"):
        load_recipe("none.yaml")


def test_shown_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    odd = "train: {overrides: {a.b: [1, {c: 'x # y'}]}, weights: w.pth}\nexport: {input_size: [3, 4], batch: null}\n"
    text = f"name: 'null'\nconfig: 'a: b'\n{odd}"
    recipe = load_recipe(write(tmp_path, text))
    assert load_recipe(write(tmp_path, show(recipe))) == recipe


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "configs" / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_recipes_are_valid(path: Path) -> None:
    assert load_recipe(f"segc::recipes/{path.name}") == load_recipe(path)
