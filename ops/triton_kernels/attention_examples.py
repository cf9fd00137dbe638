"""The attentions that are compiled ahead of time: SegMAN's stages at 512, its odd head dimensions, and the limits."""

from __future__ import annotations

import torch
from torch import Tensor

from segc.ops.checks import Window
from segc.ops.triton_kernels.attention_backward import backward
from segc.ops.triton_kernels.attention_forward import forward
from segc.ops.triton_kernels.launch import Launch

# batch, height, width, heads, head_dim, kernel, dilation, channels first
Size = tuple[int, int, int, int, int, int, int, bool]
SIZES: dict[str, tuple[Size, tuple[torch.dtype, ...]]] = {
    "segman_t1": ((8, 128, 128, 1, 32, 11, 1, False), (torch.float16, torch.bfloat16, torch.float32)),
    "segman_t2": ((8, 64, 64, 2, 32, 9, 1, False), (torch.float16,)),
    "segman_t3": ((8, 32, 32, 4, 36, 9, 1, False), (torch.float16,)),
    "segman_t4": ((8, 16, 16, 8, 24, 7, 1, False), (torch.float16,)),
    "segman_b2": ((8, 64, 64, 8, 20, 9, 1, False), (torch.bfloat16,)),
    "channels_first": ((8, 128, 128, 1, 32, 11, 1, True), (torch.float16,)),
    "dilated": ((1, 128, 128, 4, 64, 13, 4, False), (torch.float16,)),
    "largest": ((1, 126, 126, 2, 32, 63, 2, False), (torch.float16,)),
}


def examples() -> dict[str, list[Launch]]:
    """Launches of every size and type, forward and backward with a bias."""
    return {
        f"attention_{name}/{str(dtype).removeprefix('torch.')}": _launches(size, dtype)
        for name, (size, dtypes) in SIZES.items()
        for dtype in dtypes
    }


def _launches(size: Size, dtype: torch.dtype) -> list[Launch]:
    batch, height, width, heads, head_dim, kernel, dilation, first = size

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def image() -> Tensor:
        return (
            empty(batch, heads, head_dim, height, width).permute(0, 3, 4, 1, 2) if first else empty(batch, height, width, heads, head_dim)
        )

    q, k, v, grad = (image() for _ in range(4))
    window, rpb = Window((kernel, kernel), (dilation, dilation)), empty(heads, 2 * kernel - 1, 2 * kernel - 1)
    out, lse, launches = forward(q, k, v, window, head_dim**-0.5, rpb, with_lse=True)
    assert lse is not None
    return launches + backward(grad, q, k, v, window, head_dim**-0.5, rpb, out, lse)[1]
