# AFFormer-base, ADE20K: 41.8 mIoU published; batch 16 on 2 devices, no rules for single parameters. The official validation during training
# leaves the multiples of 32 out.
_base_ = [
    '../_base_/afformer.py', '../_base_/ade20k_multiple32.py', 'mmseg::_base_/default_runtime.py', '../_base_/adamw_160k.py'
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}))
optim_wrapper = dict(optimizer=dict(lr=3e-4), paramwise_cfg=None)
train_dataloader = dict(batch_size=8)
