# ExtremeC3Net for the 11 classes of CamVid, from scratch on a CPU.
_base_ = ['../_base_/extremec3.py', '../_base_/camvid.py', '../_base_/schedule_cpu.py']
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    decode_head=dict(
        num_classes=11, out_channels=11, threshold=None, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False)))
