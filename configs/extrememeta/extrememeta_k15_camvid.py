# ExtremeMETA-style (a reconstruction): paths of 15, 7 and 3 pixels that are one 15x15 convolution once trained. The student: p=1, q=5.
_base_ = './extremec3_camvid.py'
model = dict(backbone=dict(stem_kernels=(15, 7, 3)))
