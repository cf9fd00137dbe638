# Mask2Former with Swin-T, COCO-Stuff 164k: ours, as with ResNet-50. The backbone starts from ImageNet weights, which are the user's to
# download: model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...).
_base_ = './mask2former_r50_cocostuff164k.py'
model = dict(
    backbone=dict(
        _delete_=True, type='SwinTransformer', embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7,
        drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]))
# No decay of norms and position tables. There are 18 blocks in the third stage of the larger ones; names that are not there do no harm.
backbone_norms = [
    'backbone.patch_embed.norm', 'backbone.norm', 'absolute_pos_embed', 'relative_position_bias_table',
    *[f'backbone.stages.{stage}.blocks.{block}.norm' for stage in range(4) for block in range(18)],
    *[f'backbone.stages.{stage}.downsample.norm' for stage in range(3)],
]
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={name: dict(lr_mult=0.1, decay_mult=0.0) for name in backbone_norms}))
