"""HetNet (arXiv 2211.15644): mirror detection with light modules for low-level and semantic ones for high-level features."""
