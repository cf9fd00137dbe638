"""SegFormer is mmseg's; here is what its published weights need to become mmseg's."""
