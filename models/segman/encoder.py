"""SegMAN's encoder as an mmseg backbone: four stages at strides 4, 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from segc.core.errors import UserError, nearest
from segc.models.segman.attention import GlobalMixer, LocalScanMixer, RotaryPosition2d
from segc.models.segman.layers import MixerBlock

STRIDE = 32
PRETRAINING_SIZE = 224
_LAYER_SCALE = 1e-6


@dataclass(frozen=True)
class Variant:
    """Widths of a published encoder (table 8 of the paper and the official code), one number a stage."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    kernels: tuple[int, int, int, int]
    mlp_ratios: tuple[float, float, float, float]
    layer_scale: bool


VARIANTS = {
    "tiny": Variant((32, 64, 144, 192), (2, 2, 4, 2), (1, 2, 4, 8), (11, 9, 9, 7), (4, 4, 3, 3), False),
    "small": Variant((64, 144, 288, 512), (2, 2, 10, 4), (2, 4, 8, 16), (11, 9, 7, 7), (4, 4, 3.4, 3.4), False),
    "base": Variant((96, 160, 364, 560), (4, 4, 18, 4), (4, 8, 13, 20), (11, 9, 7, 7), (4, 4, 3, 3), True),
    "large": Variant((96, 192, 432, 640), (4, 4, 28, 4), (4, 8, 12, 20), (11, 9, 7, 7), (4, 4, 3, 3), True),
}


@MODELS.register_module()
class SegMANEncoder(BaseModule):
    """Image (N, 3, H, W) -> maps at strides 4, 8, 16 and 32. H and W must be multiples of 32 and at least 32 times the last window.

    Args:
        arch: ``tiny``, ``small``, ``base`` or ``large``.
        drop_path_rate: stochastic depth of the last block; earlier ones have less, linearly.
        hidden: widths of the feed-forward networks, one sequence a stage; None takes the variant's. A pruned network tells its own.
        init_cfg: of mmengine.

    Raises:
        UserError: an unknown variant, or (in forward) an image of another size.
    """

    def __init__(
        self,
        arch: str = "tiny",
        drop_path_rate: float = 0.0,
        hidden: Sequence[Sequence[int]] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if arch not in VARIANTS:
            raise UserError(f"SegMAN has no variant {arch!r}.{nearest(arch, VARIANTS)}")
        variant = VARIANTS[arch]
        self.smallest = STRIDE * variant.kernels[-1]
        self.patch_embed = _stem(variant.dims[0])
        total = sum(variant.depths)
        rates = iter(drop_path_rate * index / (total - 1) for index in range(total))
        widths = hidden or [
            [int(ratio * dim)] * depth for ratio, dim, depth in zip(variant.mlp_ratios, variant.dims, variant.depths, strict=True)
        ]
        self.layers = nn.ModuleList()
        for stage, (dim, depth) in enumerate(zip(variant.dims, variant.depths, strict=True)):
            self.layers.append(Stage(variant, stage, list(widths[stage]), [next(rates) for _ in range(depth)]))
            self.layers.append(_downsample(dim, variant.dims[stage + 1]) if stage < 3 else nn.Identity())

    def init_weights(self) -> None:
        """Truncated normal weights as in the paper's code, unless ``init_cfg`` says otherwise."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        super().init_weights()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The four maps, finest first."""
        self._check(images)
        x = self.patch_embed(images)
        maps = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index % 2 == 0:
                maps.append(x)
        return tuple(maps)

    def _check(self, images: Tensor) -> None:
        height, width = images.shape[2:]
        if height % STRIDE or width % STRIDE or height < self.smallest or width < self.smallest:
            raise UserError(
                f"SegMAN got an image of {height}x{width}; expected multiples of {STRIDE}, at least {self.smallest}x{self.smallest} "
                "(its last stage attends in windows of that size).",
                f"Resize the images, or pad them: data_preprocessor=dict(test_cfg=dict(size_divisor={STRIDE})).",
            )


class Stage(nn.Module):
    """Blocks of one width that share a rotary position encoding."""

    def __init__(self, variant: Variant, stage: int, hidden: list[int], drop_path: list[float]) -> None:
        super().__init__()
        dim, heads = variant.dims[stage], variant.heads[stage]
        scale = _LAYER_SCALE if variant.layer_scale else None
        self.rope = RotaryPosition2d(dim // heads)
        self.blocks = nn.ModuleList(
            MixerBlock(dim, _mixer(variant, stage), width, rate, scale) for width, rate in zip(hidden, drop_path, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        position = self.rope(x.shape[2], x.shape[3])
        for block in self.blocks:
            x = block(x, *position)
        return x


def _mixer(variant: Variant, stage: int) -> nn.Module:
    dim, heads, kernel = variant.dims[stage], variant.heads[stage], variant.kernels[stage]
    if stage < 3:
        return LocalScanMixer(dim, heads, kernel)
    return GlobalMixer(dim, heads, kernel, tokens=(PRETRAINING_SIZE // STRIDE) ** 2)


def _stem(channels: int) -> nn.Sequential:
    half = channels // 2
    layers: list[nn.Module] = []
    for before, after, stride in ((3, half, 2), (half, half, 1), (half, channels, 2), (channels, channels, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _downsample(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after))
