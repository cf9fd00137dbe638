# PEM with STDC1, ADE20K: 39.6 mIoU published.
_base_ = './pem_r50_ade20k.py'
model = dict(
    backbone=dict(_delete_=True, type='FourMapSTDC', stdc_type='STDCNet1', norm_cfg=dict(type='BN', requires_grad=True)),
    decode_head=dict(in_channels=[64, 256, 512, 1024]))
