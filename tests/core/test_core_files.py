"""Atomic writes and hashes: old content or new, never half; the sentence for a path that cannot be written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.core import files
from segc.core.errors import UserError


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, fault: type[BaseException]) -> None:
    path = tmp_path / "x.json"
    files.write_text(path, "old")
    with pytest.raises(fault), files.atomic_path(path) as temporary:
        temporary.write_text("ha")
        raise fault
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_an_interrupted_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path, fault: type[BaseException]) -> None:
    path = tmp_path / "bundle"
    for word in ("first", "second"):
        with files.atomic_folder(path) as temporary:
            (temporary / word).write_text(word)
    assert names(path) == ["second"], "the older folder is replaced as a whole"
    with pytest.raises(fault), files.atomic_folder(path) as temporary:
        (temporary / "third").write_text("")
        raise fault
    assert names(path) == ["second"] and names(tmp_path) == ["bundle"]


def test_written_files_are_readable_by_others(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "x", b"1")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied"), (errno.EDQUOT, "quota")],
)
def test_errors_that_the_user_can_mend_become_sentences(tmp_path: Path, number: int, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught, files.atomic_path(tmp_path / "x"):
        raise OSError(number, "")
    assert str(tmp_path / "x") in str(caught.value)
    assert names(tmp_path) == []


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="odd") as caught, files.atomic_path(tmp_path / "x"):
        raise OSError(errno.EIO, "odd")
    assert not isinstance(caught.value, UserError)


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        files.write_text(tmp_path / "file" / "x", "")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_json_has_no_word_for(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x", {"a": value})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "told"), [(None, "does not exist"), (b"{", "not a readable JSON"), (b"\xff\xfe\xfa", "not a readable")]
)
def test_unreadable_json_is_named(tmp_path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=told):
        files.read_json(tmp_path / "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner)
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(), JSON))
def test_json_hash_ignores_the_order_of_keys_only(value: dict[str, object]) -> None:
    turned = dict(reversed(value.items()))
    assert files.sha256_json(turned) == files.sha256_json(value) == files.sha256_json(json.loads(json.dumps(value)))
    assert files.sha256_json([value, 0]) != files.sha256_json([0, value])


def test_file_hashes(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(b"")
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    both = [tmp_path / "a", tmp_path / "b"]
    assert files.sha256_files(both) != files.sha256_files(both[::-1])
