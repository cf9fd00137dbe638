# SegMAN-T, Cityscapes: 80.3 mIoU published; batch 8 on 4 devices. The published config says 150 classes, a slip: Cityscapes has 19,
# and a checkpoint trained from it may hold a head of 150.
_base_ = [
    '../_base_/segman.py', 'mmseg::_base_/datasets/cityscapes_1024x1024.py', 'mmseg::_base_/default_runtime.py',
    '../_base_/adamw_160k.py',
]
crop_size = (1024, 1024)
model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(num_classes=19),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride=(768, 768)))
train_dataloader = dict(batch_size=2)
