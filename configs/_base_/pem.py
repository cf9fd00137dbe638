# PEM (arXiv 2402.19422), semantic, with ResNet-50. Batch norms of the backbone are frozen, as published for ADE20K. The backbone starts from
# ImageNet weights, which are the user's to download: model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...).
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255, test_cfg=dict(size_divisor=32)),
    backbone=dict(
        type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), style='pytorch', frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True),
    decode_head=dict(
        type='PEMHead', in_channels=[256, 512, 1024, 2048], channels=128, query_channels=256, num_queries=100, num_heads=8, num_layers=6,
        feedforward_channels=2048, num_classes=150, norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, no_object_weight=0.1, num_points=12544)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
