"""Reading a network's config: a file, a name of mmseg's own configs, or the text that a checkpoint carries (parsed, never run)."""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib
import functools
import importlib.util
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine.config.utils
from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import import_modules_from_strings

from segc.core.errors import UserError, nearest

# mmengine looks `_base_ = 'mmseg::...'` up by distribution, whose name differs between forks; the module has one name.
MODULE2PACKAGE["mmseg"] = "mmseg"
# ... and reads the whole model index of the package for each such base: 0.4 s.
mmengine.config.utils.load = functools.cache(mmengine.config.utils.load)
_CONFIG_FOLDERS = {"mmseg": ("mmseg", ".mim/configs"), "segc": ("segc.configs", ".")}
_TUPLE = "__tuple__"
_SCOPES = ("mmseg", "mmengine", "mmcv", "mmdet", "mmpretrain", "mmcls")
_CALLS = {"dict": dict, "list": list, "tuple": tuple}
# Top-level keys that mmengine's Runner reads and a config may leave out.
_RUNNER_KEYS = (
    "work_dir train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg auto_scale_lr optim_wrapper param_scheduler "
    "val_evaluator test_evaluator default_hooks custom_hooks data_preprocessor load_from resume launcher env_cfg log_processor log_level "
    "visualizer default_scope randomness experiment_name custom_imports tta_model tta_pipeline model"
).split()


def load_config(source: str | Path | Config, overrides: Mapping[str, Any] | None = None) -> Config:
    """Load an mmengine config that describes a segmentation network.

    Args:
        source: a path, ``mmseg::segformer/NAME.py`` (mmseg's own configs), ``segc::NAME.py`` (ours), or a config, which is copied.
        overrides: dotted key -> value, e.g. ``{"model.decode_head.num_classes": 11}``.

    Raises:
        UserError: no such config (the nearest names are told), a syntax error in it, no ``model`` in it, an unknown override key.
    """
    cfg = copy.deepcopy(source) if isinstance(source, Config) else _from_file(config_path(source))
    if not isinstance(cfg.get("model"), Mapping) or "type" not in cfg.model:
        raise UserError(f"{_name(source)} describes no network: it has no model=dict(type=...).", "Give a segmentation config of mmseg.")
    if overrides:
        _check_overrides(cfg, overrides)
        cfg.merge_from_dict(dict(overrides))
    return cfg


def config_path(source: str | Path) -> Path:
    """File of a config given as a path or as ``mmseg::`` / ``segc::`` name.

    Raises:
        UserError: it does not exist; the message names the nearest ones.
    """
    package, _, name = str(source).rpartition("::")
    if not package:
        path = Path(source)
        if not path.is_file():
            raise UserError(
                f"config {path} does not exist.{_nearest_files(path.name, path.parent)}", "Or name one of mmseg's: mmseg::FILE.py"
            )
        return path
    root = _config_root(package)
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise UserError(f"{package} has no config {name!r}.{_nearest_files(Path(name).name, root)}")
    return path


def encode_config(cfg: Config | Mapping[str, Any]) -> Any:
    """A config as a JSON value; tuples are kept apart from lists because mmcv's transforms tell them apart.

    Raises:
        UserError: the config holds an object (a class, a function) that JSON cannot carry.
    """
    return _encode(cfg.to_dict() if isinstance(cfg, Config) else dict(cfg), "config")


def decode_config(value: Any) -> Config:
    """The config of an ``encode_config`` value.

    Raises:
        UserError: it is no config, or it names code that is not registered.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"the config inside the checkpoint is a {type(value).__name__}, expected an object.", "Give the config file.")
    return _untrusted(_decode(value))


def parse_config_text(text: str) -> Config:
    """The config of Python text as mmengine stores it in ``meta['cfg']``: assignments of literals and dict()/list()/tuple() calls.

    The text comes from a checkpoint and is untrusted: it is read as a syntax tree, never run.

    Raises:
        UserError: it holds anything else.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"the config text inside the checkpoint is not valid ({error}).", "Give the config file.") from error
    values: dict[str, Any] = {}
    for statement in tree.body:
        if not (isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)):
            raise _not_literal(statement)
        values[statement.targets[0].id] = _literal(statement.value)
    return _untrusted(values)


def _untrusted(values: dict[str, Any]) -> Config:
    """The config of a checkpoint. mmengine calls whatever a ``type`` with dots in it names (``os.system``): only its scopes' classes pass.

    Raises:
        UserError: a type of another kind, or keys that mmengine keeps for itself.
    """
    for name in _types(values):
        scope, _, plain = str(name).rpartition(".")
        if scope and not (scope in _SCOPES and plain[:1].isupper()):
            raise UserError(f"the config inside the checkpoint names {name!r}, which could be any code.", "Give the config file.")
    try:
        return Config(values)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"the config inside the checkpoint is not valid ({error}).", "Give the config file.") from error


def _types(node: Any) -> Iterator[Any]:
    """Every ``type`` of a config."""
    if isinstance(node, Mapping):
        yield from (value for key, value in node.items() if key == "type")
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, list | tuple | set) else ()
    for child in children:
        yield from _types(child)


def without_pretrained(node: Any) -> Any:
    """A copy of a config node in which nothing asks for pretrained weights: they would be downloaded, and are overwritten anyway."""
    if isinstance(node, Mapping):
        kept = {key: None if _asks_download(key, value) else without_pretrained(value) for key, value in node.items()}
        return ConfigDict(kept) if isinstance(node, ConfigDict) else kept
    if isinstance(node, (list, tuple)):
        return type(node)(without_pretrained(item) for item in node)
    return node


@contextmanager
def quietly() -> Iterator[None]:
    """Mute what mmseg prints and warns while its modules are imported and built: optional packages and loss options."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _asks_download(key: str, value: Any) -> bool:
    if key == "pretrained":
        return isinstance(value, str)
    inits = value if isinstance(value, (list, tuple)) else [value]
    return key == "init_cfg" and any(isinstance(item, Mapping) and item.get("type") == "Pretrained" for item in inits)


def _from_file(path: Path) -> Config:
    try:
        with quietly():
            cfg = Config.fromfile(path, import_custom_modules=False)
            _import_custom(cfg)
            return cfg
    except SyntaxError as error:
        raise UserError(f"config {path} has a syntax error: {error.msg}, line {error.lineno}.") from error
    except (OSError, KeyError, NameError, TypeError, ValueError, AttributeError, ImportError) as error:
        raise UserError(f"config {path} cannot be read: {type(error).__name__}: {error}") from error


def _import_custom(cfg: Config) -> None:
    """Import the modules that a config names; mmdet, which mmseg's Mask2Former configs name and our head does without, only where it is."""
    wanted = cfg.get("custom_imports")
    if wanted:
        names = [wanted["imports"]] if isinstance(wanted["imports"], str) else list(wanted["imports"])
        wanted["imports"] = [name for name in names if not name.startswith("mmdet.") or importlib.util.find_spec("mmdet")]
        import_modules_from_strings(**wanted)


def _config_root(package: str) -> Path:
    if package not in _CONFIG_FOLDERS:
        raise UserError(f"unknown config collection {package!r}.{nearest(package, _CONFIG_FOLDERS)}")
    module, folder = _CONFIG_FOLDERS[package]
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the configs of {package} are not installed.", "pip install 'segc[train]'")
    return Path(next(iter(spec.submodule_search_locations))) / folder


def _nearest_files(name: str, root: Path) -> str:
    """`` Nearest: a, b, c.`` among the configs under ``root``."""
    found = {path.name: path.relative_to(root).as_posix() for path in root.rglob("*.py")} if root.is_dir() else {}
    close = difflib.get_close_matches(name, found, n=3, cutoff=0.5)
    return f" Nearest: {', '.join(found[item] for item in close)}." if close else ""


def _check_overrides(cfg: Config, overrides: Mapping[str, Any]) -> None:
    """Refuse an override that mmengine would silently add beside the key that was meant."""
    for key in overrides:
        *parents, leaf = key.split(".")
        node: Any = cfg
        for depth, part in enumerate(parents):
            node = _child(node, part, ".".join(parents[: depth + 1]))
        known = [*node, *(_RUNNER_KEYS if not parents else ())] if isinstance(node, Mapping | Config) else []
        if known and leaf not in known and (not parents or difflib.get_close_matches(leaf, known, n=1, cutoff=0.8)):
            raise UserError(f"unknown config key {key!r}.{nearest(leaf, _plain(known))}")


def _child(node: Any, part: str, where: str) -> Any:
    if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    if isinstance(node, Mapping | Config) and part in node:
        return node[part]
    known = _plain(node) if isinstance(node, Mapping | Config) else []
    raise UserError(f"unknown config key {where!r}.{nearest(part, known) if known else ''}")


def _plain(keys: Iterable[Any]) -> list[str]:
    return sorted({str(key) for key in keys if not str(key).startswith("_")})


def _encode(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _encode(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [_encode(item, where) for item in value]}
    if isinstance(value, list):
        return [_encode(item, where) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UserError(f"{where} is a {type(value).__name__}, which cannot be stored with the weights.", "Use plain values in the config.")


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TUPLE}:
            return tuple(_decode(item) for item in value[_TUPLE])
        return {key: _decode(item) for key, item in value.items()}
    return [_decode(item) for item in value] if isinstance(value, list) else value


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items):
            return [_literal(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_literal(item) for item in items)
        case ast.Set(elts=items):
            return {_literal(item) for item in items}
        case ast.Dict(keys=keys, values=items) if None not in keys:
            return {_literal(key): _literal(item) for key, item in zip(keys, items, strict=True) if key is not None}
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _CALLS and all(word.arg for word in keywords):
            return _CALLS[name](*map(_literal, args), **{str(word.arg): _literal(word.value) for word in keywords})
    raise _not_literal(node)


def _not_literal(node: ast.AST) -> UserError:
    line = getattr(node, "lineno", 0)
    return UserError(
        f"the config text inside the checkpoint holds code ({type(node).__name__}, line {line}), which is never run.",
        "Give the config file.",
    )


def _name(source: Any) -> str:
    return f"config {source.filename or ''}".strip() if isinstance(source, Config) else f"config {source}"
