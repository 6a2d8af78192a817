"""Rematerialization as a problem of its own: a graph with costs and sizes, a budget, and the cheapest schedule with repeats.

Read `instance` (the problem), `replay` (what a schedule costs and takes: the definition), `answer` (what is found and proven),
`solve` (the way through), then `search` (the engine in C++), `floors`, `covers` and `exact` (what is proven, and by what).
"""
