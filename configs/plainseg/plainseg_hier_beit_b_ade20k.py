# PlainSeg-Hier with BEiT-B, ADE20K: the published recipe; batch 16 on 4 devices. No weights and no readable mIoU were published.
_base_ = ['../_base_/plainseg_hier.py', '../_base_/ade20k_640.py', 'mmseg::_base_/default_runtime.py', '../_base_/plainseg_schedule.py']
model = dict(data_preprocessor=dict(size=(640, 640)))
train_dataloader = dict(batch_size=4)
