# DeepLabV3+ with ResNet-50 (arXiv 1802.02611) for the 11 classes of CamVid, from scratch; the benchmarks run it at 512x512.
_base_ = ['mmseg::_base_/models/deeplabv3plus_r50-d8.py', '../_base_/camvid.py', '../_base_/schedule_cpu.py']
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(num_classes=11, norm_cfg=norm_cfg),
    auxiliary_head=dict(num_classes=11, norm_cfg=norm_cfg))
optim_wrapper = dict(optimizer=dict(lr=6e-4))
