"""Closed forms of the KL schedules at their corners, and their errors."""

import pickle

import pytest

from modeling_trace.training import constant_schedule, cyclical_schedule, get_schedule, linear_schedule

ALL = [
    constant_schedule(),
    linear_schedule(),
    linear_schedule(delay=0.0, ramp=0.0),
    cyclical_schedule(),
    cyclical_schedule(num_cycles=3, zero_fraction=0.5, ramp_fraction=0.5, max_weight=0.5),
]


def test_constant():
    schedule = constant_schedule(0.25)
    assert [schedule(progress) for progress in (0.0, 0.5, 1.0)] == [0.25] * 3


def test_linear_corners():
    schedule = linear_schedule(delay=0.4, ramp=0.3, max_weight=2.0)
    assert schedule(0.0) == schedule(0.4) == 0.0
    assert schedule(0.55) == pytest.approx(1.0)
    assert schedule(0.7) == pytest.approx(2.0)
    assert schedule(0.71) == schedule(1.0) == 2.0


def test_linear_without_ramp_is_a_step():
    schedule = linear_schedule(delay=0.5, ramp=0.0)
    assert (schedule(0.499), schedule(0.5), schedule(1.0)) == (0.0, 1.0, 1.0)
    assert linear_schedule(delay=0.0, ramp=0.0)(0.0) == 1.0


def test_cyclical_corners():
    # four cycles of 0.25: 0 for 0.05, rising for 0.10, at 1 for 0.10
    schedule = cyclical_schedule(num_cycles=4, zero_fraction=0.2, ramp_fraction=0.4)
    for start in (0.0, 0.25, 0.5, 0.75):
        assert schedule(start) == 0.0
        assert schedule(start + 0.04) == 0.0
        assert schedule(start + 0.10) == pytest.approx(0.5)
        assert schedule(start + 0.16) == schedule(start + 0.24) == 1.0
    assert schedule(1.0) == 1.0  # the end of the last cycle, not the start of a fifth


def test_cyclical_defaults_are_those_of_fu_et_al():
    schedule = cyclical_schedule()
    assert schedule(0.0625) == pytest.approx(0.5)
    assert schedule(0.125) == schedule(0.2) == 1.0
    assert schedule(0.25) == 0.0


def test_one_cycle_is_the_linear_schedule():
    one, linear = cyclical_schedule(1, zero_fraction=0.4, ramp_fraction=0.3), linear_schedule(0.4, 0.3)
    assert [one(step / 97) for step in range(98)] == [linear(step / 97) for step in range(98)]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_in_range_picklable_and_readable(schedule):
    weights = [schedule(step / 500) for step in range(501)]
    assert all(0.0 <= weight <= 1.0 for weight in weights)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert type(schedule).__name__ in repr(schedule)
    for progress in (-0.01, 1.01):
        with pytest.raises(ValueError, match="global_step / max_steps"):
            schedule(progress)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: constant_schedule(-1), "`weight` must be a finite number >= 0, got -1"),
        (lambda: constant_schedule(float("nan")), "`weight` must be a finite number"),
        (lambda: linear_schedule(delay=400), "`delay` must be in .0, 1., got 400. It is a fraction"),
        (lambda: linear_schedule(delay=0.8, ramp=0.3), "`delay` . `ramp` must be <= 1"),
        (lambda: linear_schedule(max_weight=float("inf")), "`max_weight` must be a finite"),
        (lambda: cyclical_schedule(num_cycles=0), "`num_cycles` must be a whole number >= 1, got 0"),
        (lambda: cyclical_schedule(num_cycles=1.5), "`num_cycles` must be a whole number"),
        (lambda: cyclical_schedule(zero_fraction=0.6, ramp_fraction=0.5), "`zero_fraction` . `ramp_fraction`"),
        (lambda: get_schedule("cosine"), r"one of \['constant', 'cyclical', 'linear'\], got 'cosine'"),
        (
            lambda: get_schedule("linear", warmup=0.1),
            r"no argument `warmup`. It takes \['delay', 'ramp', 'max_weight'\]",
        ),
    ],
)
def test_errors_are_one_line(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_by_name():
    assert get_schedule("constant", weight=0.5) == constant_schedule(0.5)
    assert get_schedule("linear") == linear_schedule()
    assert get_schedule("cyclical", num_cycles=2) == cyclical_schedule(2)
