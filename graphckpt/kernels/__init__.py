"""Operators of our own, with what they mean, what they cost and how they run on each device."""
