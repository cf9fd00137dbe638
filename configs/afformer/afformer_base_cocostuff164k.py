# AFFormer-base, COCO-Stuff 164k, with the recipe of ADE20K: no config of this dataset was published, so this one is ours.
_base_ = [
    '../_base_/afformer.py', '../_base_/cocostuff164k_multiple32.py', 'mmseg::_base_/default_runtime.py', '../_base_/adamw_160k.py'
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=171))
optim_wrapper = dict(optimizer=dict(lr=3e-4), paramwise_cfg=None)
train_dataloader = dict(batch_size=8)
