"""What a node of the domain ``segc`` looks like in a graph: inputs in the order of the torch schema, attributes, one output.

The exporter writes it, the function bodies and the TensorRT plugins read it. Imports nothing.

- A scan node has all seven inputs: the exporter writes zeros for a D or delta_bias that the network lacks, because a plugin would not be
  told which of two optional inputs an empty name was. ``rpb`` comes last and is left out where there is none.
- A, D and delta_bias are float32 whatever u is; rpb is as q or float32; all else has the dtype of the first input, and so has the output.
- ``B`` and ``C`` of SelectiveScan always have the groups axis: (batch, groups, d_state, length).
- Every node also has ``plugin_version`` "1" and ``plugin_namespace`` "segc", by which TensorRT's parser finds a plugin.
"""

from __future__ import annotations

from dataclasses import dataclass

DOMAIN = "segc"
DOMAIN_VERSION = 1
PLUGIN_ATTRIBUTES = {"plugin_version": "1", "plugin_namespace": "segc"}


@dataclass(frozen=True)
class Signature:
    """One operator: required inputs, optional trailing inputs, and attributes by type (``int``, ``ints`` or ``float``)."""

    op_type: str
    inputs: tuple[str, ...]
    optional: tuple[str, ...]
    attributes: dict[str, str]
    output: str


SELECTIVE_SCAN = Signature(
    "SelectiveScan",
    ("u", "delta", "A", "B", "C", "D", "delta_bias"),  # (b,c,l) (b,c,l) (c,n) (b,g,n,l) (b,g,n,l) (c) (c)
    (),
    {"delta_softplus": "int", "reverse": "int"},
    "y",  # (b,c,l)
)
CROSS_SELECTIVE_SCAN = Signature(
    "CrossSelectiveScan",
    ("u", "delta", "A", "B", "C", "D", "delta_bias"),  # (b,c,h,w) (b,4c,h,w) (4c,n) (b,4,n,h,w) (b,4,n,h,w) (4c) (4c)
    (),
    {"delta_softplus": "int"},
    "y",  # (b,c,h,w)
)
NEIGHBORHOOD_ATTENTION_2D = Signature(
    "NeighborhoodAttention2D",
    ("q", "k", "v"),  # (batch, height, width, heads, head_dim) each
    ("rpb",),  # (heads, 2 kernel_rows - 1, 2 kernel_columns - 1)
    {"kernel_size": "ints", "dilation": "ints", "scale": "float"},  # ints: (rows, columns)
    "y",  # as q
)
SIGNATURES = {signature.op_type: signature for signature in (SELECTIVE_SCAN, CROSS_SELECTIVE_SCAN, NEIGHBORHOOD_ATTENTION_2D)}
