_base_ = './mask2former_swin_b_cocostuff164k.py'
model = dict(
    backbone=dict(embed_dims=192, num_heads=[6, 12, 24, 48]), decode_head=dict(in_channels=[192, 384, 768, 1536]))
