_base_ = './afformer_base_cocostuff164k.py'
model = dict(backbone=dict(arch='tiny'))
