# PlainSeg's schedule: AdamW 3e-5, 0.9 of the rate for every layer further from the head, ten times it for the head, gradients clipped to a norm
# of 0.01, 80k iterations.
_base_ = ['iterations.py']
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-5, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    constructor='PlainLayerDecay',
    paramwise_cfg=dict(num_layers=12, decay_rate=0.9, head_mult=10.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=80000),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=8000)
