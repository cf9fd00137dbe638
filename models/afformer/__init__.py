"""AFFormer (arXiv 2301.04648): a lightweight network whose tokens are filtered by frequency instead of decoded."""
