"""Put segc's own networks into mmseg's registry: importing this module is enough."""

from __future__ import annotations

from segc.models.segman.decoder import SegMANDecoder
from segc.models.segman.encoder import SegMANEncoder

__all__ = ["SegMANDecoder", "SegMANEncoder"]
