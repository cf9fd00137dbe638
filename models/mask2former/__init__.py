"""Mask2Former (arXiv 2112.01527): queries that attend to the pixels under the masks they found. Without mmdet, named as in mmseg."""
