# SegMAN-S, COCO-Stuff 164k: 47.5 mIoU published.
_base_ = ['./segman_t_cocostuff164k.py']
model = dict(
    backbone=dict(arch='small', drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 144, 288, 512], channels=144, feat_proj_dim=288))
