"""Building the network that a config describes."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from segc.core.errors import UserError
from segc.models.config import quietly, without_pretrained


def build_model(cfg: Config, seed: int = 0) -> nn.Module:
    """The network of a config with random weights, in eval mode on the CPU; SyncBN becomes BN. Nothing is downloaded.

    Raises:
        UserError: the config names an unknown module or argument, or one that this installation cannot build.
    """
    from mmengine.model import revert_sync_batchnorm

    model_cfg = without_pretrained(cfg.model)
    with quietly(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(model_cfg, cfg.get("default_scope", "mmseg"))
        return revert_sync_batchnorm(model).eval()


def _build(model_cfg: Any, scope: str) -> nn.Module:
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    import segc.models.zoo  # noqa: F401  (a checkpoint's config runs no custom_imports)

    init_default_scope(scope)
    try:
        return MODELS.build(model_cfg)
    except (ImportError, ModuleNotFoundError) as error:
        raise UserError(f"this network needs {getattr(error, 'name', None) or error}, which this installation lacks.") from error
    except KeyError as error:
        raise UserError(f"the config names an unknown module: {str(error.args[0]).partition('. ')[0]}.") from error
    except (TypeError, ValueError, AssertionError, AttributeError) as error:
        raise UserError(f"the config's model cannot be built: {error}.") from error
