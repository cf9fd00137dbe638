# PlainSeg-Hier with BEiT-B: maps of four blocks, a slim pyramid of them, one layer of deformable attention, nine layers of queries.
_base_ = ['./plainseg.py']
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(out_indices=[3, 5, 7, 11]),
    neck=dict(type='SlimPyramid', channels=768, norm_cfg=norm_cfg),
    decode_head=dict(
        _delete_=True, type='PlainSegHierHead', in_channels=[192, 384, 768, 768], channels=256, num_queries=100, num_layers=9, num_heads=8,
        hidden=2048, num_classes=150,
        loss_decode=dict(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, no_object_weight=0.1, num_points=12544)))
