# ExtremeMETA-style (a reconstruction): paths of 31, 15, 7 and 3 pixels that are one 31x31 convolution once trained. The teacher: p=3, q=8.
_base_ = './extremec3_camvid.py'
model = dict(backbone=dict(first_blocks=3, second_blocks=8, stem_kernels=(31, 15, 7, 3)))
