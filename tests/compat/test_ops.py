"""What schemas and tags say of an operator."""

import pytest
import torch
from torch._inductor import inductor_prims

from graphckpt.compat import ops

ATEN = torch.ops.aten


def test_views_and_writes() -> None:
    """A view aliases without writing; an in-place call writes; `_unsafe_view` is a view that does not say so."""
    assert ops.is_view(ATEN.permute.default)
    assert ops.is_view(ATEN._unsafe_view.default)
    assert not ops.is_view(ATEN.add_.Tensor)
    assert not ops.is_view(ATEN.clone.default)
    assert ops.is_mutating(ATEN.add_.Tensor)
    assert not ops.is_mutating(ATEN.add.Tensor)
    assert not ops.is_mutating(print)


@pytest.mark.parametrize(
    ("target", "positions"),
    [
        (ATEN.copy_.default, (0,)),
        (ATEN.add.Tensor, ()),
        (ATEN.sort.values, (3, 4)),
        (ATEN.view.default, ()),
        (print, ()),
    ],
)
def test_mutated_arguments(target: object, positions: tuple[int, ...]) -> None:
    assert ops.mutated_arguments(target) == positions


def test_random_numbers_and_seeds() -> None:
    """Seeds are drawn; what is made from a seed is not."""
    for target in (inductor_prims.seed, inductor_prims.seeds):
        assert ops.makes_seeds(target)
        assert ops.draws_random_numbers(target)
        assert not ops.draws_from_saved_seed(target)
    for target in (inductor_prims.random, inductor_prims.randint, inductor_prims.lookup_seed):
        assert not ops.draws_random_numbers(target)
        assert ops.draws_from_saved_seed(target)
    assert ops.draws_random_numbers(ATEN.rand_like.default)
    assert not ops.draws_random_numbers(ATEN.ones_like.default)


def test_dropout_off() -> None:
    """By position, by name, by default; a call without such an argument has nothing to turn off."""
    attend = ATEN._scaled_dot_product_flash_attention.default
    assert ops.has_dropout_off(attend, (1, 2, 3), {})
    assert ops.has_dropout_off(attend, (1, 2, 3, 0.0), {})
    assert ops.has_dropout_off(attend, (1, 2, 3), {"dropout_p": 0.0})
    assert not ops.has_dropout_off(attend, (1, 2, 3, 0.1), {})
    assert not ops.has_dropout_off(attend, (1, 2, 3), {"dropout_p": 0.1})
    assert not ops.has_dropout_off(ATEN.rand_like.default, (1,), {})
    assert not ops.has_dropout_off(print, (), {})


def test_namespaces_and_higher_order() -> None:
    assert ops.namespace(ATEN.mm.default) == "aten"
    assert ops.namespace(inductor_prims.seeds) == "prims"
    assert ops.namespace(print) == ""
    assert ops.is_higher_order(torch.ops.higher_order.cond)
    assert not ops.is_higher_order(ATEN.mm.default)


def test_fused_lowerings_are_those_that_do_not_call_aten() -> None:
    assert ops.has_fused_lowering(ATEN.sin.default)
    assert not ops.has_fused_lowering(ATEN.histc.default)
    assert not ops.has_fused_lowering(print)
