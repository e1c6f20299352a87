"""Kernels in C, for scans (`scans`) and for models in bfloat16 (`layers`).

They are compiled when the package is built, if there is a C compiler. Without it nothing here can be called,
and on processors without AVX-512 nothing multiplied; those who call do the same with torch.
"""
