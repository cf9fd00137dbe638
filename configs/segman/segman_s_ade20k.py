# SegMAN-S, ADE20K: 51.3 mIoU published.
_base_ = ['./segman_t_ade20k.py']
model = dict(
    backbone=dict(arch='small', drop_path_rate=0.15),
    decode_head=dict(in_channels=[64, 144, 288, 512], channels=144, feat_proj_dim=288))
