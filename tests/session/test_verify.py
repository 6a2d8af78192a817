"""verify=True: the first step is checked against the same graph without a plan."""

import pytest
import torch

from graphckpt.errors import VerifyError
from graphckpt.session.verify import Verified


def _doubled(x: torch.Tensor) -> list[torch.Tensor]:
    return [x * 2]


def _tripled(x: torch.Tensor) -> list[torch.Tensor]:
    return [x * 3]


def test_equal_gradients_pass_and_the_result_is_the_plans() -> None:
    """x -> 2x on both sides."""
    x = torch.rand(8, requires_grad=True)
    verified = Verified(_doubled, _doubled, lambda: None)
    (y,) = verified(x)
    assert torch.equal(y, x * 2)
    assert verified.done
    assert x.grad is None


def test_a_wrong_gradient_is_an_error_that_gives_the_ratio() -> None:
    """The plan says 3x where 2x was meant: the difference is half of the reference."""
    with pytest.raises(VerifyError, match=r"ratio of norms 0\.5, at most 1e-05 was wanted"):
        Verified(_tripled, _doubled, lambda: None)(torch.rand(8, requires_grad=True))


def test_it_is_done_once_and_never_without_autograd() -> None:
    """The reference counts its calls: none under no_grad; two (one to warm up, one measured) at the first step; none after."""
    calls = []

    def counted(x: torch.Tensor) -> list[torch.Tensor]:
        calls.append(x)
        return _doubled(x)

    verified = Verified(_doubled, counted, lambda: None)
    x = torch.rand(8, requires_grad=True)
    with torch.no_grad():
        verified(x)
    assert calls == []
    verified(x)
    verified(x)
    assert len(calls) == 2


def test_the_random_state_is_the_same_afterwards() -> None:
    """A draw after a verified call equals one after a plain call."""
    x = torch.rand(8, requires_grad=True)

    def noisy(x: torch.Tensor) -> list[torch.Tensor]:
        return [x * torch.rand_like(x)]

    torch.manual_seed(5)
    noisy(x)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Verified(noisy, noisy, lambda: None)(x)
    assert torch.equal(torch.rand(3), expected)
