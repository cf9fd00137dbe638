# Mask2Former with ResNet-50, COCO-Stuff 164k, with mmseg's recipe of ADE20K: no config of this dataset was published, so this one is ours.
_base_ = 'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'
crop_size = (512, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomChoiceResize', scales=[int(51.2 * tenth) for tenth in range(5, 21)], resize_type='ResizeShortestEdge', max_size=2048),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
model = dict(decode_head=dict(num_classes=171, loss_cls=dict(class_weight=[1.0] * 171 + [0.1])))
dataset = dict(_delete_=True, type='COCOStuffDataset', data_root='data/coco_stuff164k')
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'), pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'), pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
