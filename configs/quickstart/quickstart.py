# ResNet-18 of half width with an FPN head: learns CamVid from scratch in minutes on two cores; plain convolutions quantize well.
_base_ = ['../_base_/camvid.py', '../_base_/schedule_cpu.py']
norm_cfg = dict(type='BN', requires_grad=True)
# Rarer classes weigh more: 1 / ln(1.10 + share of pixels in CamVid's training split), scaled to mean 1 (ENet, arXiv 1606.02147).
class_weight = [0.43, 0.36, 1.15, 0.30, 0.83, 0.61, 1.13, 1.14, 0.76, 1.21, 1.25]
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255, size={{_base_.crop_size}}),
    backbone=dict(
        type='ResNetV1c', depth=18, base_channels=32, stem_channels=32, num_stages=4, out_indices=(0, 1, 2, 3),
        norm_cfg=norm_cfg, norm_eval=False, style='pytorch'),
    neck=dict(type='FPN', in_channels=[32, 64, 128, 256], out_channels=48, num_outs=4),
    decode_head=dict(
        type='FPNHead', in_channels=[48, 48, 48, 48], in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32], channels=48,
        dropout_ratio=0.0, num_classes=11, norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0, class_weight=class_weight)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
