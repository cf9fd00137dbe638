"""The parity ladder: the training pipeline and the deployed graph, compared stage by stage."""
