# SegMAN (arXiv 2412.11890). Encoder weights trained on ImageNet-1k are the authors' to download:
# -o "model.backbone.init_cfg=dict(type='Pretrained', checkpoint='encoder.safetensors')"
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(
    type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_val=0, seg_pad_val=255)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='SegMANEncoder', arch='tiny', drop_path_rate=0.0, init_cfg=None),
    decode_head=dict(
        type='SegMANDecoder', in_channels=[32, 64, 144, 192], in_index=[0, 1, 2, 3], channels=128, feat_proj_dim=192,
        dropout_ratio=0.1, num_classes=150, norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
