"""ExtremeC3Net (arXiv 1908.03093), and a reconstruction of ExtremeMETA (arXiv 2405.17568), whose first layer has a large kernel.

ExtremeMETA's code is not published, and its abstract gives neither kernel sizes nor the way its network was compressed: the stem here is
ours, built after the description (parallel paths of large kernels that become one convolution, which an optical element can take over).
"""
