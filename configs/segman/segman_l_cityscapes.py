# SegMAN-L, Cityscapes: 84.2 mIoU published. The authors publish no drop path for L: 0.3 is that of the B encoder.
_base_ = ['./segman_t_cityscapes.py']
model = dict(
    backbone=dict(arch='large', drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 432, 640], channels=224, feat_proj_dim=432),
    test_cfg=dict(_delete_=True, mode='whole'))
