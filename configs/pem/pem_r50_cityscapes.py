# PEM with ResNet-50, Cityscapes: 79.9 mIoU published; batch 32 on 4 devices. The backbone's batch norms are trained.
_base_ = ['../_base_/pem.py', 'mmseg::_base_/datasets/cityscapes.py', 'mmseg::_base_/default_runtime.py', '../_base_/pem_schedule.py']
crop_size = (512, 1024)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomChoiceResize', scales=[int(102.4 * tenth) for tenth in range(5, 21)], resize_type='ResizeShortestEdge', max_size=4096),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=True), norm_eval=False),
    decode_head=dict(num_classes=19))
optim_wrapper = dict(optimizer=dict(lr=7e-4))
max_iters = 90000
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=0, end=max_iters)]
train_cfg = dict(max_iters=max_iters)
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
