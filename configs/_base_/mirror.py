# Mirror detection on MSD: 3063 training and 955 test images. The published edge maps come with no generator; ours are the mask's borders.
custom_imports = dict(imports=['segc.data.mirror', 'segc.models.hetnet.metric'], allow_failed_imports=False)
dataset_type = 'MirrorDataset'
data_root = 'data/MSD'
crop_size = (352, 352)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadBinaryMask'),
    dict(type='RandomBorderCrop', share=1 / 8),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Resize', scale=crop_size, keep_ratio=False),
    dict(type='GenerateEdge', edge_width=3),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(352, 352), keep_ratio=False),
    dict(type='LoadBinaryMask', least=255),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=12,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='train.txt',
        data_prefix=dict(img_path='train/image', seg_map_path='train/mask'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='test.txt',
        data_prefix=dict(img_path='test/image', seg_map_path='test/mask'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']), dict(type='MirrorMetric')]
test_evaluator = val_evaluator
