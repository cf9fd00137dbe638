_base_ = './mask2former_swin_t_cocostuff164k.py'
model = dict(backbone=dict(depths=[2, 2, 18, 2]))
