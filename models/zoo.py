"""Put segc's own networks into mmseg's registry: importing this module is enough."""

from __future__ import annotations

from segc.models.afformer.backbone import AFFormer
from segc.models.afformer.head import AFFormerHead
from segc.models.extrememeta.backbone import ExtremeC3Net
from segc.models.extrememeta.head import ExtremeC3Head
from segc.models.hetnet.backbone import HetNetBackbone, MultiScalePreProcessor
from segc.models.hetnet.head import HetNetHead
from segc.models.hetnet.loss import StructureLoss
from segc.models.mask2former.head import Mask2FormerHead
from segc.models.mask_classification import MaskClassificationLoss
from segc.models.pem.backbone import FourMapSTDC
from segc.models.pem.head import PEMHead
from segc.models.plainseg.backbone import PlainBEiT, PlainViT
from segc.models.plainseg.head import PlainSegHead, PlainSegHierHead
from segc.models.plainseg.neck import SlimPyramid
from segc.models.plainseg.optimizer import PlainLayerDecay
from segc.models.segman.decoder import SegMANDecoder
from segc.models.segman.encoder import SegMANEncoder

__all__ = [
    "AFFormer",
    "AFFormerHead",
    "ExtremeC3Head",
    "ExtremeC3Net",
    "FourMapSTDC",
    "HetNetBackbone",
    "HetNetHead",
    "Mask2FormerHead",
    "MaskClassificationLoss",
    "MultiScalePreProcessor",
    "PEMHead",
    "PlainBEiT",
    "PlainLayerDecay",
    "PlainSegHead",
    "PlainSegHierHead",
    "PlainViT",
    "SegMANDecoder",
    "SegMANEncoder",
    "SlimPyramid",
    "StructureLoss",
]
