# COCO-Stuff 164k, tested like ADE20K: the short side to 512, then both sides stretched to multiples of 32.
_base_ = ['mmseg::_base_/datasets/coco-stuff164k.py']
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
