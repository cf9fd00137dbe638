"""SegMAN against what the official modules gave for the same weights, and against the published counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from segc.core.errors import UserError
from segc.models.segman.attention import GlobalMixer, RotaryPosition2d
from segc.models.segman.decoder import SegMANDecoder
from segc.models.segman.encoder import VARIANTS, SegMANEncoder
from tests.models.exported import run_at_any_size
from tests.models.seeded import fill

REFERENCE = Path(__file__).parent / "data" / "segman_logits.safetensors"
HEADS = {"tiny": (128, 192), "small": (144, 288), "base": (180, 320), "large": (224, 432)}
# Measured on the official modules with 150 classes: parameters in millions, entries of the state dict.
KNOWN = {"tiny": (6.397, 457), "small": (29.425, 711), "base": (51.803, 1251), "large": (92.336, 1641)}


def _network(arch: str, classes: int) -> tuple[SegMANEncoder, SegMANDecoder]:
    channels, projected = HEADS[arch]
    decoder = SegMANDecoder(
        projected,
        in_channels=list(VARIANTS[arch].dims),
        in_index=[0, 1, 2, 3],
        channels=channels,
        num_classes=classes,
        norm_cfg={"type": "BN"},
        align_corners=False,
    )
    return SegMANEncoder(arch).eval(), decoder.eval()


@pytest.mark.parametrize("arch", VARIANTS)
def test_parameters_and_keys_are_as_published(arch: str) -> None:
    with torch.device("meta"):
        parts = _network(arch, 150)
    millions, entries = KNOWN[arch]
    assert sum(p.numel() for part in parts for p in part.parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)
    assert sum(len(part.state_dict()) for part in parts) == entries


@pytest.mark.parametrize(("arch", "size"), [("tiny", (224, 256)), pytest.param("base", (224, 224), marks=pytest.mark.slow)])
def test_logits_equal_the_official_code(arch: str, size: tuple[int, int]) -> None:
    encoder, decoder = _network(arch, 7)
    fill(encoder.state_dict(), 1)
    fill(decoder.state_dict(), 2)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = decoder(list(encoder(image)))
    expected = load_file(REFERENCE)[f"{arch}_{size[0]}x{size[1]}"]
    assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-5


def test_strides_and_widths_of_the_maps() -> None:
    encoder = SegMANEncoder("tiny").eval()
    with torch.no_grad():
        maps = encoder(torch.zeros(2, 3, 224, 320))
    assert [tuple(m.shape) for m in maps] == [(2, 32, 56, 80), (2, 64, 28, 40), (2, 144, 14, 20), (2, 192, 7, 10)]


@pytest.mark.parametrize("size", [(192, 224), (224, 250), (100, 100)])
def test_other_sizes_are_refused_with_what_is_needed(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=rf"{size[0]}x{size[1]}; expected multiples of 32, at least 224x224"):
        SegMANEncoder("tiny")(torch.zeros(1, 3, *size))


def test_an_unknown_variant_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'small'"):
        SegMANEncoder("smal")


def test_widths_of_a_pruned_network_are_taken() -> None:
    hidden = [[100, 90], [120, 130], [200] * 4, [300, 310]]
    encoder = SegMANEncoder("tiny", hidden=hidden)
    assert [[block.mlp.fc1.out_channels for block in encoder.layers[2 * stage].blocks] for stage in range(4)] == hidden


def test_every_part_is_trained() -> None:
    encoder, decoder = _network("tiny", 3)
    fill(encoder.state_dict(), 1)
    decoder(list(encoder(torch.randn(1, 3, 224, 224)))).square().mean().backward()
    idle = [name for part in (encoder, decoder) for name, p in part.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # A constant added to all keys of a softmax changes nothing; the head is trained through conv_seg.
    assert [name for name in idle if not name.endswith("qkv.bias")] == []


def test_the_global_bias_is_resized_as_a_picture_of_tokens() -> None:
    mixer = GlobalMixer(16, 2, 7, tokens=49)
    nn.init.normal_(mixer.rpb[1])
    assert torch.equal(mixer.bias(49)[0], mixer.rpb[1])
    resized = F.interpolate(mixer.rpb[1][None], (56, 56), mode="bicubic", align_corners=False)
    assert torch.equal(mixer.bias(56), resized)


class LastStage(nn.Module):
    """A global mixer with its position encoding."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer, self.rope = GlobalMixer(16, 2, 7, tokens=49), RotaryPosition2d(8)
        fill(self.state_dict(), 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x, *self.rope(x.shape[2], x.shape[3]))


def test_a_graph_traced_at_the_pre_training_size_takes_any_other() -> None:
    stage = LastStage().eval()
    run = run_at_any_size(stage, torch.zeros(1, 16, 7, 7))
    for size in ((7, 7), (8, 11), (12, 7)):
        x = torch.randn(1, 16, *size, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            wanted = stage(x).numpy()
        assert abs(run(x) - wanted).max() < 1e-5 * abs(wanted).max()


def test_rotation_depends_on_the_distance_only() -> None:
    from segc.models.segman.attention import rotate

    cos, sin = RotaryPosition2d(8)(6, 5)
    q, k = torch.randn(8), torch.randn(8)
    scores = rotate(q.expand(6, 5, 1, 8), cos, sin)[:, :, 0] @ rotate(k.expand(6, 5, 1, 8), cos, sin)[:, :, 0].flatten(0, 1).T
    scores = scores.view(6, 5, 6, 5)
    assert torch.allclose(scores[0, 0, 2, 1], scores[3, 2, 5, 3], atol=1e-5)
    assert not torch.allclose(scores[0, 0, 2, 1], scores[0, 0, 1, 2], atol=1e-3)
