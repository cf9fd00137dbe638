_base_ = './afformer_base_cityscapes.py'
model = dict(backbone=dict(arch='small'))
