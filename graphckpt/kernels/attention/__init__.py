"""Attention that never holds a tensor of queries times keys: one operator a direction, for any mask, bias, sink and dropout."""
