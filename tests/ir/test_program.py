"""A step replayed from two memory programs, against timelines drawn by hand."""

from graphckpt.ir.program import Event, Program, StepPeak, replay_step


def _take(block: int, size_bytes: int, name: str = "") -> Event:
    return Event(block, size_bytes, 0, name or f"buf{block}")


def _drop(block: int) -> Event:
    return Event(block, 0, 0, f"buf{block}")


def _work(scratch_bytes: int, name: str) -> Event:
    return Event(-1, 0, scratch_bytes, name)


FORWARD = Program(
    inputs=(("x", 0),),
    events=(_take(1, 100, "h"), _take(2, 50, "scores"), _take(3, 70, "y"), _drop(2)),
    outputs=(("y", 3), ("h", 1)),
)
BACKWARD = Program(
    inputs=(("h", 0), ("tangents_1", 1)),
    events=(_take(2, 30, "g"), _drop(1), _drop(0), _take(3, 90, "grad"), _drop(2)),
    outputs=(("grad", 3),),
)


def test_forward_then_backward() -> None:
    """Forward: h 100, scores 150, y 220 (the top), scores go. Backward: h 100 + tangent 70 + g 30 = 200, then g 30 + grad 90."""
    peak = replay_step(FORWARD, BACKWARD, tangents={"tangents_1": 70}, saved_from=1)
    assert peak == StepPeak(220, 200, 100, (("h", 100), ("scores", 50), ("y", 70)))
    assert peak.peak_bytes == 220


def test_outputs_that_the_caller_keeps_stay() -> None:
    """y 70 is there during backward: h 100 + y 70 + tangent 70 + g 30 = 270."""
    peak = replay_step(FORWARD, BACKWARD, tangents={"tangents_1": 70}, saved_from=1, outputs_held=True)
    assert (peak.backward_bytes, peak.saved_bytes) == (270, 100)
    assert dict(peak.holders) == {"h": 100, "y": 70, "tangents_1": 70, "g": 30}


def test_a_loss_of_a_few_bytes_is_always_kept() -> None:
    """loss 4 is what backward is called on: h 100 + loss 4 + tangent 4 + g 30."""
    forward = Program((("x", 0),), (_take(1, 100, "h"), _take(2, 4, "loss")), (("loss", 2), ("h", 1)))
    peak = replay_step(forward, BACKWARD, tangents={"tangents_1": 4}, saved_from=1)
    assert peak.backward_bytes == 138


def test_inputs_are_never_charged() -> None:
    """x leaves forward and is saved, backward drops it: it is the caller's."""
    forward = Program((("x", 0),), (_take(1, 10), _drop(1), _drop(0)), (("x", 0), ("x", 0)))
    backward = Program((("x", 0),), (_take(1, 20), _drop(0)), (("g", 1),))
    assert replay_step(forward, backward, tangents={}, saved_from=1) == StepPeak(10, 20, 0, (("buf1", 20),))


def test_a_storage_saved_through_two_views_goes_with_the_last() -> None:
    """h 100 is saved as a and as b. Backward: drops a, takes 40 (140), drops b, takes 90 (130)."""
    forward = Program((), (_take(0, 100),), (("a", 0), ("b", 0)))
    backward = Program((("a", 0), ("b", 1)), (_drop(0), _take(2, 40), _drop(1), _take(3, 90)), (("g", 3),))
    peak = replay_step(forward, backward, tangents={}, saved_from=0)
    assert (peak.forward_bytes, peak.backward_bytes, peak.saved_bytes) == (100, 140, 100)
    both = Program(backward.inputs, (_drop(0), _drop(1), _take(3, 90)), backward.outputs)
    assert replay_step(forward, both, tangents={}, saved_from=0).backward_bytes == 90


def test_a_workspace_is_gone_when_its_kernel_returns() -> None:
    """h 100, a kernel with 500 for itself (600, the top), then y 70 (170)."""
    forward = Program((), (_take(0, 100, "h"), _work(500, "conv"), _take(1, 70, "y")), (("y", 1), ("h", 0)))
    backward = Program((("h", 0),), (_work(20, "back"), _drop(0)), ())
    peak = replay_step(forward, backward, tangents={}, saved_from=1)
    assert peak == StepPeak(600, 120, 100, (("h", 100), ("workspace of conv", 500)))


def test_holders_are_those_of_the_higher_pass() -> None:
    """Backward takes 300 more: it is the top, and names what is alive there."""
    backward = Program(BACKWARD.inputs, (_take(2, 300, "big"), _drop(2), _drop(1), _drop(0)), ())
    peak = replay_step(FORWARD, backward, tangents={"tangents_1": 70}, saved_from=1)
    assert peak.backward_bytes == peak.peak_bytes == 470
    assert dict(peak.holders) == {"h": 100, "tangents_1": 70, "big": 300}


def test_the_first_gradient_is_held_by_who_called_backward() -> None:
    """A tangent of 70 goes where the program drops it, before 300 are taken; one of 4, which ``backward()`` made, stays."""
    backward = Program((("tangents_1", 1), ("h", 0)), (_drop(1), _take(2, 300, "big"), _drop(2), _drop(0)), ())
    large, small = (replay_step(FORWARD, backward, tangents={"tangents_1": size}, saved_from=1) for size in (70, 4))
    assert (large.backward_bytes, small.backward_bytes) == (400, 404)


def test_a_saved_output_is_held_until_backward_drops_it() -> None:
    """y 70 goes to the caller and is saved as y: it is one block, and counted once."""
    forward = Program((), (_take(0, 70, "y"),), (("y", 0), ("y", 0)))
    backward = Program((("y", 0),), (_take(1, 30), _drop(0), _take(2, 60)), (("g", 2),))
    peak = replay_step(forward, backward, tangents={}, saved_from=1)
    assert (peak.backward_bytes, peak.saved_bytes) == (100, 70)


def test_a_saved_output_that_the_caller_keeps_outlives_backward() -> None:
    """y 70 is the caller's and is saved: backward lets go of it, the caller does not, so 70 + 30 + 60 bytes are live."""
    forward = Program((), (_take(0, 70, "y"),), (("y", 0), ("y", 0)))
    backward = Program((("y", 0),), (_take(1, 30), _drop(0), _take(2, 60)), (("g", 2),))
    assert replay_step(forward, backward, tangents={}, saved_from=1, outputs_held=True).backward_bytes == 160


def test_a_gradient_that_autograd_copies_is_there_twice_once_backward_has_returned() -> None:
    """Gradients of 60 and 90 bytes: in backward h 100 + tangent 4 + 60; at its end 154 with the tangent, and a copy of one more."""
    backward = Program(
        (("h", 0), ("t", 1)), (_take(2, 60), _drop(0), _drop(1), _take(3, 90, "grad")), (("a", 2), ("b", 3), ("h", 0))
    )
    peaks = [
        replay_step(FORWARD, backward, tangents={"t": 4}, saved_from=1, copied=copied).backward_bytes
        for copied in ((), ("a",), ("b",), ("a", "b"), ("none",))
    ]
    assert peaks == [164, 214, 244, 244, 164]
