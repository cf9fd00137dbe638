# AFFormer-base for Cityscapes, 78.7 mIoU published; 2 GPUs x 4 images, whole images at test time.
_base_ = [
    '../_base_/models/afformer.py', 'mmseg::_base_/datasets/cityscapes_1024x1024.py', 'mmseg::_base_/default_runtime.py',
    './schedule_160k.py'
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=19))
optim_wrapper = dict(optimizer=dict(lr=4e-4))
train_dataloader = dict(batch_size=4, num_workers=4)
