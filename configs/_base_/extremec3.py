# ExtremeC3Net (arXiv 1908.03093) with p=1, q=5: 37,762 parameters with two output channels; the published portrait weights have one.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255),
    backbone=dict(type='ExtremeC3Net', first_blocks=1, second_blocks=5),
    decode_head=dict(
        type='ExtremeC3Head', in_channels=24, in_index=0, channels=24, dropout_ratio=0, num_classes=2, out_channels=1,
        threshold=0.5, align_corners=True,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
