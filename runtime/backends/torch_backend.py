"""Run a checkpoint in torch: the full network, through the same deployed function that is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segc.core.contract import Contract
from segc.models.deploy import DeployModule, contract_from_config
from segc.models.fold import fold_batch_norms
from segc.models.network import load_network
from segc.runtime.runner import check_images


class TorchRunner:
    """A checkpoint that carries its config, as a deployed function of any image size; see ``segc.runtime.runner.Runner``.

    Batch normalisations are folded into their convolutions at the first batch, which shows what reads what.

    Args:
        path: ``.safetensors`` of ``segc train`` or an mmseg checkpoint with its config in it.
        threads: intra-op threads; None leaves torch's setting, which is global to the process.
        contract: run under this contract instead of the config's own (for instance that of a bundle it is compared with).

    Raises:
        UserError: see ``segc.models.network.load_network``.
    """

    backend = "torch"
    precision = "fp32"

    def __init__(self, path: Path, *, threads: int | None = None, contract: Contract | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        network = load_network(None, path)
        self.contract = contract or contract_from_config(network.cfg, network.classes, network.palette, input_size="dynamic", batch=None)
        # Images come as NHWC, and what the network makes of them keeps that order: weights in another would be copied at every run.
        self._module = DeployModule(network.model, self.contract).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._folded = False

    def run(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Run one batch: uint8 (N, H, W, 3) -> the contract's output."""
        check_images(images, self.contract)
        batch = torch.from_numpy(np.ascontiguousarray(images))
        if not self._folded:
            fold_batch_norms(self._module, lambda: self._module(batch))
            self._folded = True
        with torch.inference_mode():
            output: NDArray[Any] = self._module(batch).numpy()
        return output

    def close(self) -> None:
        """Free the network."""
        del self._module
