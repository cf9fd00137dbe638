# PlainSeg-Hier with ViT-B, ADE20K: ours, after that of BEiT-B; any size whose sides are multiples of 16.
_base_ = './plainseg_hier_beit_b_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True, type='PlainViT', img_size=(640, 640), patch_size=16, embed_dims=768, num_layers=12, num_heads=12, mlp_ratio=4,
        out_indices=[3, 5, 7, 11], drop_path_rate=0.1, norm_cfg=dict(type='LN', eps=1e-6)))
