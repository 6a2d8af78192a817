"""Attention as Triton kernels. Importing this folder imports no triton; calling it does."""
