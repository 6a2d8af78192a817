"""Problems from text: the JSON form ``{"name", "cost": [...], "size": [...], "preds": [[...], ...]}``.

Node i takes ``cost[i]``, its output takes ``size[i]`` bytes, and it reads the outputs of ``preds[i]``. ``name`` may be left out.
Other fields are refused: a misspelt one would silently change the problem. Every error is one line, an `InstanceError`.
"""

from __future__ import annotations

import json

from graphckpt.errors import InstanceError
from graphckpt.solve.remat.instance import Instance, make_instance

_FIELDS = ("cost", "size", "preds")
_LONGEST_QUOTE = 40


def parse_json(text: str) -> Instance:
    """The problem of a JSON text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InstanceError(f"wanted JSON, came {_quoted(text)}: {_one_line(error)}") from error
    if not isinstance(found, dict):
        raise InstanceError(f"wanted an object with the fields {', '.join(_FIELDS)}, came {_quoted(found)}")
    for field in _FIELDS:
        if field not in found:
            raise InstanceError(f"wanted a field {field!r}, came {', '.join(map(_quoted, found)) or 'none'}")
    unknown = sorted(set(found) - {"name", *_FIELDS})
    if unknown:
        raise InstanceError(f"wanted the fields name, {', '.join(_FIELDS)} alone, came {_quoted(unknown[0])}")
    name = found.get("name", "")
    if not isinstance(name, str):
        raise InstanceError(f"name: wanted text, came {_quoted(name)}")
    inputs = _list("preds", found["preds"])
    return make_instance(
        name,
        _whole_numbers("cost", found["cost"]),
        _whole_numbers("size", found["size"]),
        tuple(_whole_numbers(f"preds of node {node}", sources) for node, sources in enumerate(inputs)),
    )


def render_json(instance: Instance) -> str:
    """The JSON form; ``once`` is not in it."""
    form = {
        "name": instance.name,
        "cost": instance.cost,
        "size": instance.size_bytes,
        "preds": instance.inputs,
    }
    return json.dumps(form, separators=(",", ":"))


def _whole_numbers(what: str, found: object) -> tuple[int, ...]:
    values = _list(what, found)
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InstanceError(f"{what}: wanted whole numbers, came {_quoted(value)}")
    return tuple(values)


def _list(what: str, found: object) -> list:
    if not isinstance(found, list):
        raise InstanceError(f"{what}: wanted a list, came {_quoted(found)}")
    return found


def _quoted(found: object) -> str:
    try:
        text = repr(found)
    except (RecursionError, ValueError):
        # Nested beyond measure, or a number of more digits than Python prints.
        text = f"a {type(found).__name__}"
    return _one_line(text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}...")


def _one_line(what: object) -> str:
    return " ".join(str(what).split())
