"""mmseg configs (model x dataset) and recipes; installed with the package."""
