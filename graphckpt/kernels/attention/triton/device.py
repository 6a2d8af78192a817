"""What all kernels share, a tile at a time: reading operands, who may attend to whom, scores, dropout.

Rows and keys of a tile are vectors; where a function takes both in two dimensions they broadcast against each other, (rows, 1) and
(1, keys) or, turned, (1, rows) and (keys, 1). Where a tile starts is a number of 64 bits. No inline assembly, no libdevice: all of
it runs in Triton's interpreter.

Modes of a tile: `FREE`, all its rows may attend to all its keys; `MASKED`, some may; `SPREAD`, rows of ``masks.empty`` attend to
all keys alike, and no other row is looked at.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
FREE = tl.constexpr(0)
MASKED = tl.constexpr(1)
SPREAD = tl.constexpr(2)
# Bits of one drawn word serve this many weights: 4 words of 32 bits, 16 bits a weight.
DRAWN_AT_ONCE = tl.constexpr(8)
ROUNDS = tl.constexpr(7)


@triton.jit
def place(tensor, batch, head, first, column: tl.constexpr):
    """Where a row of a head starts; 64 bits, and the same in a whole tile."""
    start = tensor.data + batch.to(tl.int64) * tensor.batch + head.to(tl.int64) * tensor.head
    return start + tl.cast(first, tl.int64) * tensor.row + tl.cast(column, tl.int64) * tensor.column


@triton.jit
def within_tile(index, tensor):
    """An index into a tile as wide as its product with a stride is: registers are dear, and only a giant stride needs 64 bits."""
    if tensor.far is not None:
        index = index.to(tl.int64)
    return index


@triton.jit
def load_part(
    tensor,
    batch,
    head,
    first,
    count,
    ROWS: tl.constexpr,
    COLUMN: tl.constexpr,
    SPAN: tl.constexpr,
    WIDTH: tl.constexpr,
    CHECKED: tl.constexpr,
):
    """(ROWS, SPAN) from row ``first`` and column COLUMN on; 0 beyond ``count`` rows, where CHECKED, and beyond WIDTH columns."""
    rows = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, SPAN)[None, :]
    at = place(tensor, batch, head, first, COLUMN)
    at = at + within_tile(rows, tensor) * tensor.row + within_tile(columns, tensor) * tensor.column
    if COLUMN + SPAN > WIDTH:
        within = columns < WIDTH - COLUMN
        if CHECKED:
            within = within & (rows < count - first)
        part = tl.load(at, mask=within, other=0.0)
    elif CHECKED:
        part = tl.load(at, mask=rows < count - first, other=0.0)
    else:
        part = tl.load(at)
    return part


@triton.jit
def load_parts(
    tensor,
    batch,
    head,
    first,
    count,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    REST: tl.constexpr,
    CHECKED: tl.constexpr,
):
    """Both parts of ROWS rows of a head; the first one twice where there is no rest."""
    main = load_part(tensor, batch, head, first, count, ROWS, 0, SPAN, WIDTH, CHECKED)
    rest = main
    if REST:
        rest = load_part(tensor, batch, head, first, count, ROWS, SPAN, REST, WIDTH, CHECKED)
    return main, rest


@triton.jit
def tiles_of(tensor, batch, head, count, ROWS: tl.constexpr, WIDTH: tl.constexpr, DESCRIBED: tl.constexpr):
    """Tiles of ROWS rows of a head, which a tensor memory accelerator reads; 0 beyond ``count`` rows. Columns lie side by side.
    None where not DESCRIBED."""
    tiles = None
    if DESCRIBED:
        at = place(tensor, batch, head, 0, 0)
        row = tl.cast(tensor.row, tl.int64)
        tiles = tl.make_tensor_descriptor(at, shape=[count, WIDTH], strides=[row, 1], block_shape=[ROWS, WIDTH])
    return tiles


@triton.jit
def read_parts(
    tiles,
    tensor,
    batch,
    head,
    first,
    count,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    REST: tl.constexpr,
    CHECKED: tl.constexpr,
):
    """`load_parts`, by the head's ``tiles`` where there are any: then it has no rest."""
    if tiles is not None:
        main = tiles.load([first, 0])
        rest = main
    else:
        main, rest = load_parts(tensor, batch, head, first, count, ROWS, WIDTH, SPAN, REST, CHECKED)
    return main, rest


@triton.jit
def word_of(rare, index, first, row_count, TOLD: tl.constexpr):
    """Where word is left of the tile of TOLD rows that row ``first`` of a head is in, or of the row itself where that is 1."""
    if TOLD == 1:
        index = index.to(tl.int64)
    return rare + index * tl.cdiv(row_count, TOLD) + first // TOLD


@triton.jit
def is_told(word, first, row_count, ROWS: tl.constexpr, TOLD: tl.constexpr):
    """Above 0 where one of the ROWS rows from ``first`` on is to be done again."""
    if TOLD == 1:
        rows = tl.arange(0, ROWS)
        found = tl.max(tl.load(word + rows, mask=rows < row_count - first, other=0).to(tl.int32))
    else:
        found = tl.load(word)
    return found


@triton.jit
def not_finite(values):
    """Above 0 where one of the values is no number, or none that is finite."""
    return tl.max(tl.where(tl.abs(values) < float("inf"), 0, 1))


@triton.jit
def tell_rows(word, values, first, row_count, ROWS: tl.constexpr):
    """Leave word of each row by itself: to reduce over rows is more than Triton specializes warps for."""
    rows = tl.arange(0, ROWS)
    found = tl.max(tl.where(tl.abs(values) < float("inf"), 0, 1), 1)
    tl.store(word + rows, (found > 0).to(tl.int8), mask=rows < row_count - first)


@triton.jit
def store_part(base, row_stride, rows, count, part, FIRST: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr):
    """Write (rows, SPAN) into rows of dense columns."""
    columns = FIRST + tl.arange(0, SPAN)
    at = base + rows.to(tl.int64)[:, None] * row_stride + columns[None, :]
    within = (rows[:, None] < count) & (columns[None, :] < WIDTH)
    tl.store(at, part.to(base.dtype.element_ty), mask=within)


@triton.jit
def store_parts(
    data, batch, head, heads, rows, count, main, rest, WIDTH: tl.constexpr, SPAN: tl.constexpr, REST: tl.constexpr
):
    """Write both parts of some rows of a (B, H, n, WIDTH) that lies heads last in memory."""
    # One head is a constant to the compiler, and has no methods.
    row_stride = tl.cast(heads, tl.int64) * WIDTH
    base = data + batch.to(tl.int64) * count * row_stride + head.to(tl.int64) * WIDTH
    store_part(base, row_stride, rows, count, main, 0, SPAN, WIDTH)
    if REST:
        store_part(base, row_stride, rows, count, rest, SPAN, REST, WIDTH)


@triton.jit
def product(a, a_rest, b, b_rest, REST: tl.constexpr, PRECISION: tl.constexpr):
    """a times b transposed, over both parts of a head: (rows of a, rows of b) in fp32."""
    found = tl.dot(a, tl.trans(b), input_precision=PRECISION)
    if REST:
        found = tl.dot(a_rest, tl.trans(b_rest), found, input_precision=PRECISION)
    return found


@triton.jit
def allowed_in(masks, batch, rows, keys, row_count, key_count):
    """Who may attend to whom; nobody to what is beyond the keys."""
    allowed = keys < key_count
    if masks.left is not None:
        allowed = allowed & (keys >= rows + masks.offset - masks.left)
    if masks.right is not None:
        allowed = allowed & (keys <= rows + masks.offset + masks.right)
    if masks.keys is not None:
        at = masks.keys.data + batch.to(tl.int64) * masks.keys.batch + keys.to(tl.int64) * masks.keys.at
        allowed = allowed & (tl.load(at, mask=keys < key_count, other=0) != 0)
    if masks.q_documents is not None:
        at = (
            masks.q_documents.data
            + batch.to(tl.int64) * masks.q_documents.batch
            + rows.to(tl.int64) * masks.q_documents.at
        )
        mine = tl.load(at, mask=rows < row_count, other=0).to(tl.int64)
        at = (
            masks.k_documents.data
            + batch.to(tl.int64) * masks.k_documents.batch
            + keys.to(tl.int64) * masks.k_documents.at
        )
        allowed = allowed & (mine == tl.load(at, mask=keys < key_count, other=0).to(tl.int64))
    return allowed


@triton.jit
def empty_in(masks, batch, rows, row_count):
    """Which rows may attend to nothing, and so attend to everything."""
    at = masks.empty.data + batch.to(tl.int64) * masks.empty.batch + rows.to(tl.int64) * masks.empty.at
    return tl.load(at, mask=rows < row_count, other=0) != 0


@triton.jit
def allowed_by(masks, batch, rows, keys, row_count, key_count, MODE: tl.constexpr):
    """Who counts in a tile of this mode, which is not `FREE`."""
    if MODE == SPREAD:
        allowed = empty_in(masks, batch, rows, row_count) & (keys < key_count)
    else:
        allowed = allowed_in(masks, batch, rows, keys, row_count, key_count)
    return allowed


@triton.jit
def tanh(x, EXACT: tl.constexpr):
    """Of exponentials; near 0, where they cancel, a series if it is to be EXACT (relative error 3e-7 at most)."""
    decay = tl.exp2(tl.abs(x) * (-2.0 * LOG2E))
    found = (1.0 - decay) / (1.0 + decay)
    found = tl.where(x < 0, -found, found)
    if EXACT:
        square = x * x
        series = 0.021869488536155203 - square * 0.008863235529902197
        series = -0.05396825396825397 + square * series
        series = 0.13333333333333333 + square * series
        series = -0.3333333333333333 + square * series
        found = tl.where(square < 0.09, x + x * square * series, found)
    return found


@triton.jit
def unit(EXACT: tl.constexpr):
    """What exponents are multiplied by beforehand: of 2, which saves a product each, unless they are to be EXACT. A logarithm of 7
    that is rounded to base 2 and back is off by 5e-7, and so is a whole row of weights."""
    return 1.0 if EXACT else LOG2E


@triton.jit
def power(z, EXACT: tl.constexpr):
    """e to what `unit` has multiplied."""
    return tl.exp2(z * LOG2E) if EXACT else tl.exp2(z)


@triton.jit
def exponents(products, call, batch, head, first, first_key, rows, keys, row_count, key_count, EXACT: tl.constexpr):
    """Exponents (scores with softcap and bias) in units of `unit`, and the derivative of the softcap, 1 without one."""
    slope = 1.0
    factor = unit(EXACT)
    if call.scores.softcap is not None:
        curve = tanh(products * (call.scores.scale / call.scores.softcap), EXACT)
        slope = 1.0 - curve * curve
        z = curve * (call.scores.softcap * factor)
    else:
        z = products * (call.scores.scale * factor)
    if call.bias.data is not None:
        at = place(call.bias, batch, head, first, 0) + tl.cast(first_key, tl.int64) * call.bias.column
        at = at + within_tile(rows - first, call.bias) * call.bias.row
        at = at + within_tile(keys - first_key, call.bias) * call.bias.column
        bias = tl.load(at, mask=(rows < row_count) & (keys < key_count), other=0.0)
        z += bias.to(tl.float32) * factor
    return z, slope


@triton.jit
def kept_in(dropout, rows, first_key, index, ROWS: tl.constexpr, KEYS: tl.constexpr, TURNED: tl.constexpr):
    """Which weights of a tile dropout keeps, (rows, keys), TURNED (keys, rows). ``index``: of batch and head.

    Philox of the seed and the place (key // 8, row, index), 7 rounds, so that any tile of any kernel draws the same. A weight is
    kept with a probability that is the nearest multiple of 2^-16.
    """
    seed = tl.load(dropout.seed)
    words = first_key // DRAWN_AT_ONCE + tl.arange(0, KEYS // DRAWN_AT_ONCE)
    if TURNED:
        a, b, c, d = tl.philox(seed, words[:, None], rows[None, :], index, 0, ROUNDS)
    else:
        a, b, c, d = tl.philox(seed, words[None, :], rows[:, None], index, 0, ROUNDS)
    drawn = tl.join(tl.join(a, c), tl.join(b, d))
    drawn = tl.join(drawn & 0xFFFF, drawn >> 16)
    kept = drawn < dropout.threshold
    return tl.reshape(tl.permute(kept, (0, 2, 3, 4, 1)), (KEYS, ROWS)) if TURNED else tl.reshape(kept, (ROWS, KEYS))


@triton.jit
def keys_of(masks, first, last, key_count, KEYS: tl.constexpr):
    """Where the keys of rows ``first`` to ``last`` start, where those start and stop that all of them may attend to as far as the
    band goes, and where all stop: four numbers, of which all but the last are multiples of KEYS."""
    start = first * 0
    free_start = first * 0
    stop = key_count + first * 0
    free_stop = key_count + first * 0
    if masks.left is not None:
        start = tl.maximum(first + masks.offset - masks.left, 0) // KEYS * KEYS
        free_start = tl.cdiv(tl.maximum(last + masks.offset - masks.left, 0), KEYS) * KEYS
    if masks.right is not None:
        stop = tl.minimum(last + masks.offset + masks.right + 1, key_count)
        free_stop = tl.minimum(first + masks.offset + masks.right + 1, key_count)
    free_stop = tl.maximum(free_stop, 0) // KEYS * KEYS
    none = free_stop <= free_start
    return start, tl.where(none, start, free_start), tl.where(none, start, free_stop), stop


@triton.jit
def rows_of(masks, first, last, row_count, ROWS: tl.constexpr):
    """Where the rows start, a multiple of ROWS, and stop that may attend to one of the keys ``first`` to ``last``."""
    start = first * 0
    stop = row_count + first * 0
    if masks.right is not None:
        start = tl.maximum(first - masks.offset - masks.right, 0) // ROWS * ROWS
    if masks.left is not None:
        stop = tl.minimum(last - masks.offset + masks.left + 1, row_count)
    return start, stop
