"""PEM (arXiv 2402.19422): mask classification whose queries attend to one prototype each instead of to every pixel."""
