"""The measuring rig: every way of training inside less memory, measured alike, one process a row.

Enters: a model config (`configs`), a way to run it (`ways`). Leaves: one JSON line a row (`record`), judged (`judge`)
and rendered: every row (`table`), a line a model (`summary`), ours beside the peers at their peaks (`extra`, `plot`).
The rig knows graphckpt by its backend name alone; `prediction` reads its reports.

    python -m benchmarks.row --config gpt2:layers=8 --way compile --json
    python -m benchmarks.rig --suite peers --out benchmarks/rows/peers.jsonl
    python -m benchmarks.table benchmarks/rows/peers.jsonl

Not guaranteed: wall-clock times, which on a shared machine are noise; compare by modelled time.
"""
