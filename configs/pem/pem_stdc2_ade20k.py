# PEM with STDC2, ADE20K: 45.0 mIoU published.
_base_ = './pem_r50_ade20k.py'
model = dict(
    backbone=dict(_delete_=True, type='FourMapSTDC', stdc_type='STDCNet2', norm_cfg=dict(type='BN', requires_grad=True)),
    decode_head=dict(in_channels=[64, 256, 512, 1024]))
