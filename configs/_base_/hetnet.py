# HetNet (arXiv 2211.15644): ResNeXt-101 32x4d; one logit a pixel, 1 = mirror. Every resize puts corner pixels on corner pixels.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='MultiScalePreProcessor', bgr_to_rgb=True, pad_val=0, seg_pad_val=255, size=(352, 352),
        sizes=(224, 256, 288, 320, 352), mean=[136.67972, 128.13225, 119.58932], std=[64.26382, 67.363945, 68.53635]),
    backbone=dict(
        type='HetNetBackbone', depth=101, groups=32, base_width=4, num_stages=4, out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True), norm_eval=False, style='pytorch'),
    decode_head=dict(
        type='HetNetHead', in_channels=[64, 256, 512, 1024, 2048], in_index=[0, 1, 2, 3, 4], channels=64, num_classes=2,
        out_channels=1, threshold=0.5, dropout_ratio=0, align_corners=True,
        loss_decode=dict(type='StructureLoss', weighted_bce=False)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
