# PEM's schedule: AdamW 4e-4 with mixed precision, falling as a cosine to 1e-6 in 160k iterations; a tenth of the rate for the backbone, no decay
# of norms and embeddings, gradients clipped to a norm of 0.01.
_base_ = ['iterations.py']
backbone_norms = [
    'backbone.bn1', 'backbone.stages.0.bn', 'backbone.stages.1.bn', 'downsample.1', 'downsample.bn', 'layers.0.bn', 'layers.1.bn',
    'layers.2.bn', 'layers.3.bn', *[f'layer{stage}.{block}.bn' for stage in range(1, 5) for block in range(6)],
]
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            'backbone': dict(lr_mult=0.1, decay_mult=1.0),
            **{name: dict(lr_mult=0.1, decay_mult=0.0) for name in backbone_norms},
            **{name: dict(decay_mult=0.0) for name in ('query_feat', 'query_embed', 'level_embed')},
        }))
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=False, begin=0, end=160000)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=5000)
default_hooks = dict(checkpoint=dict(interval=5000))
