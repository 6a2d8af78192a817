"""Runnable examples: each trains something real and checks what it claims."""
