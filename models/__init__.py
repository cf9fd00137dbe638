"""Networks: mmseg configs and weights, loaded safely; the deployed function as a torch module."""
