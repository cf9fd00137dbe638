# SegMAN-T for the 11 classes of CamVid, from scratch, in crops that a CPU can train; its sides are multiples of 32, at least 224.
_base_ = ['../_base_/segman.py', '../_base_/camvid.py', '../_base_/schedule_cpu.py']
norm_cfg = dict(type='BN', requires_grad=True)
crop_size = (224, 320)
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size_divisor=32)),
    decode_head=dict(num_classes=11, norm_cfg=norm_cfg))
train_pipeline = [
    {{_base_.load}},
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.7, 1.6), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=6e-4))
