# AFFormer-base for COCO-Stuff 164k with the recipe of ADE20K: no config of this dataset was published, so this one is ours.
_base_ = [
    '../_base_/models/afformer.py', 'mmseg::_base_/datasets/coco-stuff164k.py', 'mmseg::_base_/default_runtime.py', './schedule_160k.py'
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=171))
train_dataloader = dict(batch_size=8, num_workers=8)
