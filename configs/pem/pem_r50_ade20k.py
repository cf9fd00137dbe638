# PEM with ResNet-50, ADE20K: 45.5 mIoU published; batch 32 on 4 devices. The short side of a training image is 0.5 to 2 times 512.
_base_ = ['../_base_/pem.py', 'mmseg::_base_/datasets/ade20k.py', 'mmseg::_base_/default_runtime.py', '../_base_/pem_schedule.py']
crop_size = (512, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(
        type='RandomChoiceResize', scales=[int(51.2 * tenth) for tenth in range(5, 21)], resize_type='ResizeShortestEdge', max_size=2048),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
model = dict(data_preprocessor=dict(size=crop_size))
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
