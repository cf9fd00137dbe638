# AFFormer-base, Cityscapes: 78.7 mIoU published; batch 8 on 2 devices, whole images at test time.
_base_ = [
    '../_base_/afformer.py', 'mmseg::_base_/datasets/cityscapes_1024x1024.py', 'mmseg::_base_/default_runtime.py',
    '../_base_/adamw_160k.py'
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=19))
optim_wrapper = dict(optimizer=dict(lr=4e-4), paramwise_cfg=None)
train_dataloader = dict(batch_size=4)
