"""Finds the attentions of a graph that autograd has not seen yet, and puts one operator in the place of each."""
