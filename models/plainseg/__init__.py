"""PlainSeg and PlainSeg-Hier (arXiv 2310.12755): queries that read the last map of a plain vision transformer, or a pyramid of its maps."""
