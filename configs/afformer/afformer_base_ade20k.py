# AFFormer-base for ADE20K, 41.8 mIoU published; 2 GPUs x 8 images. Tests on whole images whose sides are rounded up to multiples of 32.
_base_ = [
    '../_base_/models/afformer.py', 'mmseg::_base_/datasets/ade20k.py', 'mmseg::_base_/default_runtime.py', './schedule_160k.py'
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=8, num_workers=8)
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
