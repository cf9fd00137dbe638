# SegMAN-T, COCO-Stuff 164k: 41.3 mIoU published; batch 16 on 4 devices.
_base_ = [
    '../_base_/segman.py', '../_base_/cocostuff164k_multiple32.py', 'mmseg::_base_/default_runtime.py', '../_base_/adamw_160k.py',
]
crop_size = (512, 512)
model = dict(data_preprocessor=dict(size=crop_size), decode_head=dict(num_classes=171))
train_dataloader = dict(batch_size=4)
