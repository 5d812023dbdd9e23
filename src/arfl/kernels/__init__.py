"""Everything generated or compiled: kernels of the CPU and of the GPU, and who chooses them.

`arfl.aggregators` holds the same steps in plain torch, where a reader compares them with the paper;
the tests hold one against the other. Modules whose name ends in ``_cpu`` or ``_gpu`` run on that
device alone, and count for the fingerprint of its cells alone.
"""
