# ExtremeC3Net for portraits at 224x224, with the output channel, BGR order, means and deviations of the published weights (94.98 IoU on
# EG1800); they saw images divided by the deviations and then by 255 again.
# Published: Adam 1e-3, 300 epochs of batches of 60, Lovasz loss; its second loss on edges, its augmentations and its pre-training of the
# coarse path are not repeated here. Folders: {train,test}/{image/*.jpg,mask/*.png}, 255 = portrait.
_base_ = ['../_base_/extremec3.py', '../_base_/iterations.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['segc.data.mirror', 'segc.models.hetnet.metric'], allow_failed_imports=False)
size = (224, 224)
model = dict(
    data_preprocessor=dict(
        bgr_to_rgb=False, size=size, mean=[107.304565, 115.69884, 132.35703], std=[63.97182 * 255, 65.1337 * 255, 68.29726 * 255]),
    decode_head=dict(loss_decode=dict(
        _delete_=True, type='LovaszLoss', loss_type='binary', per_image=True, reduction='mean', loss_weight=1.0)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadBinaryMask'),
    dict(type='RandomBorderCrop', share=1 / 8),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Resize', scale=size, keep_ratio=False),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=False),
    dict(type='LoadBinaryMask'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset', data_root='data/EG1800', metainfo=dict(classes=('background', 'portrait'), palette=[[0, 0, 0], [255, 255, 255]]))
train_dataloader = dict(
    batch_size=60, num_workers=8, persistent_workers=True, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**dataset, data_prefix=dict(img_path='train/image', seg_map_path='train/mask'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=4, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, data_prefix=dict(img_path='test/image', seg_map_path='test/mask'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']), dict(type='MirrorMetric')]
test_evaluator = val_evaluator
# 300 epochs of the 1500 training portraits.
max_iters = 7500
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3, weight_decay=2e-4))
param_scheduler = [dict(type='MultiStepLR', milestones=[3750, 5625], gamma=0.5, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=750)
default_hooks = dict(checkpoint=dict(interval=750))
