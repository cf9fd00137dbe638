# SegMAN-B, COCO-Stuff 164k: 48.4 mIoU published.
_base_ = ['./segman_t_cocostuff164k.py']
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.2),
    decode_head=dict(in_channels=[96, 160, 364, 560], channels=180, feat_proj_dim=320))
