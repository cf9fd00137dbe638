# PlainSeg-Hier with BEiT-B, COCO-Stuff 164k: the published recipe is of BEiT-L, with 200 queries; the base network for it is ours.
_base_ = ['../_base_/plainseg_hier.py', '../_base_/cocostuff164k_640.py', 'mmseg::_base_/default_runtime.py', '../_base_/plainseg_schedule.py']
model = dict(data_preprocessor=dict(size=(640, 640)), decode_head=dict(num_classes=171, num_queries=200))
train_dataloader = dict(batch_size=4)
