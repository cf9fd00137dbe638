# AFFormer-tiny for the 11 classes of CamVid, from scratch on a CPU.
_base_ = ['../_base_/afformer.py', '../_base_/camvid.py', '../_base_/schedule_cpu.py']
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(arch='tiny'),
    decode_head=dict(num_classes=11))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
