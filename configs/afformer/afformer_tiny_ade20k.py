_base_ = './afformer_base_ade20k.py'
model = dict(backbone=dict(arch='tiny'))
