# PlainSeg-Hier with BEiT-B, Cityscapes: the published recipe in crops of 768; batch 8 on 4 devices.
_base_ = [
    '../_base_/plainseg_hier.py', 'mmseg::_base_/datasets/cityscapes_768x768.py', 'mmseg::_base_/default_runtime.py',
    '../_base_/plainseg_schedule.py'
]
crop_size = (768, 768)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size),
    decode_head=dict(num_classes=19),
    test_cfg=dict(crop_size=crop_size, stride=(512, 512)))
train_dataloader = dict(batch_size=2)
