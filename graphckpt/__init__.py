"""graphckpt: a torch.compile backend that trains inside a memory budget given in bytes.

Use it by name, with no import: ``torch.compile(model, backend="graphckpt", options={"budget": "8GiB"})``.
"""
