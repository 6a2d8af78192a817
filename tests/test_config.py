"""One table of options; options beat environment beats default."""

from pathlib import Path

import pytest

from graphckpt.config import OPTIONS, POLICIES, Options, render_table, resolve
from graphckpt.errors import BudgetError, GraphckptError, OptionError
from graphckpt.units import FORMS, Size

INNER = ("max_autotune", "triton.cudagraphs", "verify")


def _ours(options: dict[str, object] | None = None, environ: dict[str, str] | None = None) -> Options:
    return resolve(options, environ or {}, inner_option_names=INNER).options


def test_nothing_given_is_all_defaults() -> None:
    resolved = resolve(None, {"PATH": "/bin"}, inner_option_names=())
    assert resolved.options == Options()
    assert resolved.inner_options == {}
    assert resolved.options.source("budget") == "default"


def test_each_field_has_one_row_in_the_table() -> None:
    fields = set(Options.__dataclass_fields__) - {"source_of"}
    assert [spec.name for spec in OPTIONS] == [name for name in Options.__dataclass_fields__ if name in fields]


def test_options_beat_environment_beat_default() -> None:
    environ = {"GRAPHCKPT_SOLVER_SECONDS": "2", "GRAPHCKPT_VERIFY": "yes"}
    options = _ours({"solver_seconds": 3}, environ)
    assert (options.solver_seconds, options.verify, options.disable) == (3.0, True, False)
    assert [options.source(name) for name in ("solver_seconds", "verify", "disable")] == ["options", "environment", "default"]


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("budget", "8GiB", Size("bytes", 8 << 30)),
        ("budget", 4096, Size("bytes", 4096)),
        ("activation_budget", "60%", Size("percent", 60.0)),
        ("budget", None, None),
        ("optimizer", "sgd", "sgd"),
        ("optimizer", "2KiB", 2048),
        ("optimizer", 0, 0),
        ("inner", "eager", "eager"),
        ("on_infeasible", "warn", "warn"),
        ("checkpoints", "honour", "honour"),
        ("verify", "off", False),
        ("solver_seconds", "0.5", 0.5),
        ("solver_seconds", 3, 3.0),
        ("solver_seconds", None, None),
        ("policy", "every_12", "every_12"),
        ("policy", "index:0", "index:0"),
        ("dump", Path("out") / "x", "out/x"),
        ("disable", True, True),
    ],
)
def test_values(name: str, value: object, read: object) -> None:
    assert getattr(_ours({name: value}), name) == read
    if isinstance(value, str):
        assert getattr(_ours(environ={f"GRAPHCKPT_{name.upper()}": value}), name) == read


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("inner", "inducter", "Did you mean 'inductor'"),
        ("on_infeasible", "ignore", "`error` or `warn`"),
        ("optimizer", "60%", "size of its own"),
        ("verify", "maybe", "`0` or `1`"),
        ("solver_seconds", 0, "seconds above 0"),
        ("solver_seconds", "inf", "seconds above 0"),
        ("policy", "every_0", "Did you mean 'every_N'"),
        ("policy", "sqrrt", "Did you mean 'sqrt'"),
        ("policy", "index:-1", "index:K"),
        ("dump", 3, "a directory"),
        ("dump", "", "a directory"),
    ],
)
def test_wrong_values_say_option_wanted_and_came(name: str, value: object, shown: str) -> None:
    with pytest.raises(OptionError) as caught:
        _ours({name: value})
    assert f"option {name!r}" in str(caught.value)
    assert repr(value) in str(caught.value)
    assert shown in str(caught.value)


def test_a_bad_budget_names_its_flag_and_the_forms() -> None:
    with pytest.raises(BudgetError) as caught:
        _ours(environ={"GRAPHCKPT_BUDGET": "lots"})
    assert "GRAPHCKPT_BUDGET" in str(caught.value)
    assert FORMS in str(caught.value)


@pytest.mark.parametrize("policy", [p.replace("_N", "_3").replace(":K", ":3") for p in POLICIES])
def test_every_listed_policy_is_taken(policy: str) -> None:
    assert _ours({"policy": policy}).policy == policy


def test_inductor_options_pass_through_and_ours_win_a_shared_name() -> None:
    resolved = resolve({"max-autotune": True, "triton.cudagraphs": False, "verify": 1}, {}, inner_option_names=INNER)
    assert resolved.inner_options == {"max_autotune": True, "triton.cudagraphs": False}
    assert resolved.options.verify


@pytest.mark.parametrize(
    ("name", "nearest"), [("bugdet", "budget"), ("max_autotun", "max_autotune"), ("solver_second", "solver_seconds")]
)
def test_unknown_option_names_the_nearest_of_both_sets(name: str, nearest: str) -> None:
    with pytest.raises(OptionError, match=f"{name!r}.*{nearest!r}"):
        _ours({name: 1})


def test_unknown_option_near_nothing_lists_ours() -> None:
    with pytest.raises(OptionError, match="Known are: activation_budget, attention"):
        _ours({"zzzzzz": 1})


def test_unknown_flag_names_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"'GRAPHCKPT_BUGDET'.*'GRAPHCKPT_BUDGET'"):
        _ours(environ={"GRAPHCKPT_BUGDET": "1GiB"})


def test_an_empty_flag_is_not_set() -> None:
    assert _ours(environ={"GRAPHCKPT_BUDGET": "", "GRAPHCKPT_DISABLE": ""}) == Options()


@pytest.mark.parametrize("source", ["options", "environment"])
def test_both_budgets_from_one_source_are_refused(source: str) -> None:
    both = {"budget": "1GiB", "activation_budget": "1GiB"}
    environ = {f"GRAPHCKPT_{name.upper()}": value for name, value in both.items()}
    with pytest.raises(OptionError, match=source):
        _ours(dict(both)) if source == "options" else _ours(environ=environ)


@pytest.mark.parametrize(("winner", "loser"), [("budget", "activation_budget"), ("activation_budget", "budget")])
def test_budgets_from_two_sources_options_win(winner: str, loser: str) -> None:
    options = _ours({winner: "1GiB"}, {f"GRAPHCKPT_{loser.upper()}": "2GiB"})
    assert getattr(options, winner) == Size("bytes", 1 << 30)
    assert getattr(options, loser) is None
    assert options.source(loser) == "default"


def test_none_in_options_silences_the_environment() -> None:
    options = _ours({"budget": None}, {"GRAPHCKPT_BUDGET": "2GiB", "GRAPHCKPT_ACTIVATION_BUDGET": "1GiB"})
    assert options.budget is None
    assert options.activation_budget == Size("bytes", 1 << 30)


def test_all_errors_are_ours() -> None:
    for spec in OPTIONS:
        with pytest.raises(GraphckptError):
            _ours({spec.name: object()})


def test_table_has_a_row_an_option_with_flag_and_default() -> None:
    lines = render_table().splitlines()
    assert len(lines) == len(OPTIONS) + 2
    assert all(line.count("|") == 6 for line in lines)
    for spec, line in zip(OPTIONS, lines[2:], strict=True):
        assert line.startswith(f"| `{spec.name}` | `GRAPHCKPT_{spec.name.upper()}` |")
    assert "| `adam` |" in next(line for line in lines if "`optimizer`" in line)


def test_the_nearest_variable_is_told_by_what_variables_do_not_share() -> None:
    with pytest.raises(OptionError, match=r"'GRAPHCKPT_DEBUG'\. Known are: GRAPHCKPT_ACTIVATION_BUDGET"):
        _ours(environ={"GRAPHCKPT_DEBUG": "2"})
