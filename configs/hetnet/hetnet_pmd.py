# HetNet for PMD (571 test images). Its number of training images is not in the published code; 5095, the count taken here, sets the length
# of 150 epochs: 425 batches of 12 each.
_base_ = './hetnet_msd.py'
crop_size = (416, 416)
data_root = 'data/PMD'
model = dict(
    data_preprocessor=dict(
        size=crop_size, sizes=(288, 320, 352, 384, 416), mean=[129.81274, 115.53708, 100.38846], std=[65.67121, 65.61214, 67.4352]))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadBinaryMask'),
    dict(type='RandomBorderCrop', share=1 / 8),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Resize', scale=crop_size, keep_ratio=False),
    dict(type='GenerateEdge', edge_width=3),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
max_iters = 63750
param_scheduler = [
    dict(type='LinearLR', start_factor=2 / 151, end_factor=1.0, by_epoch=False, begin=0, end=max_iters // 2),
    dict(type='LinearLR', start_factor=1.0, end_factor=2 / 151, by_epoch=False, begin=max_iters // 2, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=6375)
