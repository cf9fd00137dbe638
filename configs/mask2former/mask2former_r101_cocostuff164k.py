_base_ = './mask2former_r50_cocostuff164k.py'
model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')))
