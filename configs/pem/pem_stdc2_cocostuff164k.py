# PEM with STDC2, COCO-Stuff 164k: ours, with the recipe of ADE20K.
_base_ = './pem_r50_cocostuff164k.py'
model = dict(
    backbone=dict(_delete_=True, type='FourMapSTDC', stdc_type='STDCNet2', norm_cfg=dict(type='BN', requires_grad=True)),
    decode_head=dict(in_channels=[64, 256, 512, 1024]))
