"""verify=True: the first step is checked against the same graph without a plan."""

import gc
import logging
import weakref
from dataclasses import replace

import pytest
import torch

from graphckpt.errors import VerifyError
from graphckpt.session.verify import Verified
from tests.report.records import SMALL


def _doubled(x: torch.Tensor) -> list[torch.Tensor]:
    return [x * 2]


def _noisy(x: torch.Tensor) -> list[torch.Tensor]:
    return [x * torch.rand_like(x)]


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
    torch.manual_seed(5)
    _noisy(x)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Verified(_noisy, _noisy, lambda: None)(x)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("on_cuda", [True, False])
def test_the_random_state_of_cuda_is_put_back_where_a_tensor_lies_there(
    on_cuda: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two devices of which each run draws one number more; both runs, and the step after them, start from the same."""
    states = [torch.tensor([3]), torch.tensor([7])]
    seen = []

    def put_back(new: tuple[torch.Tensor, ...]) -> None:
        states[:] = [state.clone() for state in new]

    def drawing(x: torch.Tensor) -> list[torch.Tensor]:
        seen.append(tuple(int(state) for state in states))
        for state in states:
            state += 1
        return [x * 2]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [state.clone() for state in states])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", put_back)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: on_cuda))
    Verified(drawing, drawing, lambda: None)(torch.rand(8, requires_grad=True))
    assert len(seen) == 5
    assert (seen[0], seen[2], seen[4]) == (((3, 7),) * 3 if on_cuda else ((3, 7), (5, 9), (7, 11)))


def test_the_reference_is_let_go_even_if_the_plan_is_wrong() -> None:
    for planned in (_doubled, _tripled):

        def reference(x: torch.Tensor) -> list[torch.Tensor]:
            return [x * 2]

        held = weakref.ref(reference)
        verified = Verified(planned, reference, lambda: None)
        del reference
        try:
            verified(torch.rand(8, requires_grad=True))
        except VerifyError:
            assert planned is _tripled
        gc.collect()
        assert held() is None
        assert verified.done


def _logged(caplog: pytest.LogCaptureFixture, verified: Verified, x: torch.Tensor) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "graphckpt"):
        verified(x)
        verified(x)
    return [message for name, level, message in caplog.record_tuples if (name, level) == ("graphckpt", logging.INFO)]


def test_the_peak_is_compared_or_the_log_says_once_why_not(caplog: pytest.LogCaptureFixture) -> None:
    """Without a record; while somebody profiles; and with all that is needed: nothing to say."""
    x = torch.rand(8, requires_grad=True)
    generous = replace(SMALL, predicted_held_peak_bytes=2**30)
    (message,) = _logged(caplog, Verified(_doubled, _doubled, lambda: None), x)
    assert message.startswith("graphckpt: verified gradients, but not the peak: the graph has no record of its own")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        (message,) = _logged(caplog, Verified(_doubled, _doubled, lambda: generous), x)
    assert message.endswith("not the peak: a profiler is on already")
    assert _logged(caplog, Verified(_doubled, _doubled, lambda: generous), x) == []


def test_the_peak_of_another_device_is_not_compared(caplog: pytest.LogCaptureFixture) -> None:
    """A tensor without data beside x: what is allocated there is not seen."""

    def both(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        return [x * y.shape[0]]

    caplog.set_level(logging.INFO, "graphckpt")
    tiny = replace(SMALL, predicted_held_peak_bytes=0)
    Verified(both, both, lambda: tiny)(torch.rand(2**16, requires_grad=True), torch.empty(3, device="meta"))
    assert caplog.messages == ["graphckpt: verified gradients, but not the peak: memory of meta is not watched"]


def test_a_peak_above_the_predicted_one_is_an_error() -> None:
    """2 ** 16 floats and their gradients against nothing."""
    tiny = replace(SMALL, predicted_held_peak_bytes=0)
    with pytest.raises(VerifyError, match=r"the step took .* KiB, 0 B was predicted"):
        Verified(_doubled, _doubled, lambda: tiny)(torch.rand(2**16, requires_grad=True))
