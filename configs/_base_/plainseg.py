# PlainSeg (arXiv 2310.12755) with BEiT-B at 640x640. The backbone starts from BEiT weights (converted to mmseg's names), which are the user's
# to download: model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...).
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_val=0, seg_pad_val=255),
    backbone=dict(
        type='PlainBEiT', img_size=(640, 640), patch_size=16, embed_dims=768, num_layers=12, num_heads=12, mlp_ratio=4, out_indices=[11],
        qv_bias=True, drop_path_rate=0.1, norm_cfg=dict(type='LN', eps=1e-6), init_values=0.1, init_cfg=None),
    decode_head=dict(
        type='PlainSegHead', in_channels=768, num_levels=3, channels=256, num_queries=100, num_layers=6, num_heads=8, hidden=2048,
        num_classes=150, norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, no_object_weight=0.1, num_points=12544)),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(640, 640), stride=(426, 426)))
