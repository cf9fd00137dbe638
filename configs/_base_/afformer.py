# AFFormer (arXiv 2301.04648): the backbone's variant is model.backbone.arch. For the published ImageNet weights give a converted file:
# model.backbone.init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.').
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255),
    backbone=dict(type='AFFormer', arch='base', norm_cfg=dict(type='BN', requires_grad=True)),
    decode_head=dict(
        type='AFFormerHead', in_channels=216, in_index=3, channels=256, dropout_ratio=0.1, num_classes=150,
        norm_cfg=dict(type='GN', num_groups=32, requires_grad=True), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
