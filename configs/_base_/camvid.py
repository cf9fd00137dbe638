# CamVid, or the rendered street scene where CamVid is absent (root=None): 480x360 images, 11 classes.
dataset_type = 'SegcDataset'
custom_imports = dict(imports=['segc.data.mmseg_dataset', 'segc.train.transforms'], allow_failed_imports=False)
default_scope = 'mmseg'
crop_size = (240, 320)
load = dict(type='CachedInMemory', transforms=[dict(type='LoadImageFromFile'), dict(type='LoadTrainIds')])
train_pipeline = [
    load,
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.6, 1.6), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadTrainIds'), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type=dataset_type, root=None, split='train', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, root=None, split='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
