# PEM with STDC1, Cityscapes: 78.3 mIoU published.
_base_ = './pem_r50_cityscapes.py'
model = dict(
    backbone=dict(_delete_=True, type='FourMapSTDC', stdc_type='STDCNet1', norm_cfg=dict(type='BN', requires_grad=True)),
    decode_head=dict(in_channels=[64, 256, 512, 1024]))
