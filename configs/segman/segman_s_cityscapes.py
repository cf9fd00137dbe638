# SegMAN-S, Cityscapes: 83.2 mIoU published.
_base_ = ['./segman_t_cityscapes.py']
model = dict(
    backbone=dict(arch='small', drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 144, 288, 512], channels=152, feat_proj_dim=288))
