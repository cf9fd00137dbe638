# HetNet for MSD: 150 epochs of 256 batches of 12; the rate rises linearly to 0.01 in the middle and falls again (a tenth for the backbone).
# The published training steps the rate by epoch and draws each batch's size from 224 to 352; for the ImageNet weights of its backbone give
# model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...).
_base_ = ['../_base_/hetnet.py', '../_base_/mirror.py', '../_base_/iterations.py', 'mmseg::_base_/default_runtime.py']
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}))
max_iters = 38400
param_scheduler = [
    dict(type='LinearLR', start_factor=2 / 151, end_factor=1.0, by_epoch=False, begin=0, end=max_iters // 2),
    dict(type='LinearLR', start_factor=1.0, end_factor=2 / 151, by_epoch=False, begin=max_iters // 2, end=max_iters),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=3840)
default_hooks = dict(checkpoint=dict(interval=3840))
