# PlainSeg with BEiT-L: the published recipe; batch 16 on 8 devices.
_base_ = './plainseg_beit_b_cocostuff164k.py'
model = dict(
    backbone=dict(
        embed_dims=1024, num_layers=24, num_heads=16, init_values=1e-6, drop_path_rate=0.3, out_indices=[23]),
    decode_head=dict(in_channels=1024, num_levels=4, num_layers=8))
optim_wrapper = dict(optimizer=dict(lr=2e-5), paramwise_cfg=dict(num_layers=24, decay_rate=0.95))
train_dataloader = dict(batch_size=2)
