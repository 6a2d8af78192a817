"""Rematerialization as a problem of its own: a graph with costs and sizes, a budget, and the cheapest schedule with repeats.

Read `instance` (the problem), `replay` (what a schedule costs and takes: the definition), `answer` (what is said), `solve` (the way
through); then `search` (plans, by the engine in C++), `proof` (what no schedule can beat) and `floors` (budgets under which none
fits). `read` and `joint` make problems of files and of joint graphs, `command` is the command line.
"""
