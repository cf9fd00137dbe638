# SegMAN-B, ADE20K: 52.6 mIoU published.
_base_ = ['./segman_t_ade20k.py']
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.25),
    decode_head=dict(in_channels=[96, 160, 364, 560], channels=180, feat_proj_dim=320))
