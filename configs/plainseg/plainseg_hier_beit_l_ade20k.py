# PlainSeg-Hier with BEiT-L: the published recipe; batch 16 on 8 devices.
_base_ = './plainseg_hier_beit_b_ade20k.py'
model = dict(
    backbone=dict(
        embed_dims=1024, num_layers=24, num_heads=16, init_values=1e-6, drop_path_rate=0.3, out_indices=[7, 11, 15, 23]),
    neck=dict(channels=1024),
    decode_head=dict(in_channels=[256, 512, 1024, 1024], num_layers=6))
optim_wrapper = dict(optimizer=dict(lr=2e-5), paramwise_cfg=dict(num_layers=24, decay_rate=0.95))
train_dataloader = dict(batch_size=2)
