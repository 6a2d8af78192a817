"""Triton's kernels compiled for GPUs that are not there: tiles that fit, what they take, and what a new Triton changes."""
