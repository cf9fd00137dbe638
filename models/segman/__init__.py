"""SegMAN (arXiv 2412.11890): an encoder of neighbourhood attention and state-space scans, and a multi-scale state-space decoder."""
