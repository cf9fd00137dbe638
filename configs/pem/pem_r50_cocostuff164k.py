# PEM with ResNet-50, COCO-Stuff 164k, with the recipe of ADE20K: no config of this dataset was published, so this one is ours.
_base_ = ['../_base_/pem.py', 'mmseg::_base_/datasets/coco-stuff164k.py', 'mmseg::_base_/default_runtime.py', '../_base_/pem_schedule.py']
crop_size = (512, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomChoiceResize', scales=[int(51.2 * tenth) for tenth in range(5, 21)], resize_type='ResizeShortestEdge', max_size=2048),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
model = dict(data_preprocessor=dict(size=crop_size), decode_head=dict(num_classes=171))
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
