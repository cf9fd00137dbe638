# SegMAN-T, ADE20K: 43.0 mIoU published; batch 16 on 4 devices.
_base_ = [
    '../_base_/segman.py', '../_base_/ade20k_multiple32.py', 'mmseg::_base_/default_runtime.py', '../_base_/adamw_160k.py',
]
crop_size = (512, 512)
model = dict(data_preprocessor=dict(size=crop_size))
train_dataloader = dict(batch_size=4)
