# PlainSeg-Hier with ViT-L, ADE20K: the published recipe; any size whose sides are multiples of 16.
_base_ = './plainseg_hier_beit_l_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True, type='PlainViT', img_size=(640, 640), patch_size=16, embed_dims=1024, num_layers=24, num_heads=16, mlp_ratio=4,
        out_indices=[7, 11, 15, 23], drop_path_rate=0.3, norm_cfg=dict(type='LN', eps=1e-6)))
optim_wrapper = dict(optimizer=dict(weight_decay=0.01))
