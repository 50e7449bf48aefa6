import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyg_nodequant.training.schedule import (
    CosineSchedule,
    PlateauSchedule,
    cosine,
)

courses = st.fixed_dictionaries({
    "metrics": st.lists(st.integers(0, 4), min_size=70, max_size=70),
    "every": st.integers(1, 7),
    "max_steps": st.integers(1, 60),
    "patience": st.integers(1, 4),
    "anneal": st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]),
    "rewind": st.booleans(),
})


def run(schedule, metrics=None, every=1):
    """The factors of all steps; metrics are seen as the loop shows them."""
    factors = []
    while not schedule.finished:
        factors.append(schedule.factor())
        schedule.advance()
        if schedule.step % every == 0 or schedule.finished:
            index = (schedule.step - 1) // every
            schedule.observe(None if metrics is None else metrics[index])
        assert len(factors) < 1000
    return factors


def course(metrics, every, max_steps, patience, anneal, rewind):
    """Slow oracle: looks at the whole record after each step, and returns
    where the fall begins, the constant steps that count, and the last step.
    """
    for step in range(1, max_steps + 1):
        constant = None
        if step >= max_steps / (1 + anneal):
            constant = step
        elif step % every == 0:
            seen = metrics[:step // every]
            best = seen.index(max(seen))
            if len(seen) - 1 - best >= patience:
                constant = (best + 1) * every if rewind else step
        if constant is not None:
            length = max(1, round(anneal * constant))
            return step, constant, min(max_steps, step + length)
    raise AssertionError("the fall begins before the end")


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_cosine(floor):
    assert cosine(0.0, floor) == cosine(-1.0, floor) == 1.0
    assert cosine(1.0, floor) == cosine(7.0, floor) == floor
    assert cosine(0.5, floor) == pytest.approx((1 + floor) / 2)
    values = [cosine(i / 100, floor) for i in range(101)]
    assert all(a > b for a, b in zip(values, values[1:]))


def test_cosine_schedule_falls_to_its_floor_in_so_many_steps():
    schedule = CosineSchedule(4, floor=0.1)
    assert schedule.settling
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 4)) / 2
                for i in range(4)]
    assert run(schedule, [1.0] * 4) == pytest.approx(expected)
    assert schedule.step == 4


def test_cosine_schedule_of_no_steps_is_finished():
    assert CosineSchedule(0).finished
    assert CosineSchedule(0).factor() == 1.0


@given(courses)
def test_plateau_schedule_against_the_oracle(options):
    metrics, every = options.pop("metrics"), options.pop("every")
    begin, constant, last = course(metrics, every, **options)
    schedule = PlateauSchedule(**options)
    factors = run(schedule, metrics, every)
    expected = [
        1.0 if step < begin else
        (1 + math.cos(math.pi * (step - begin) / (last - begin))) / 2
        for step in range(last)
    ]
    assert factors == pytest.approx(expected)
    assert schedule.finished and schedule.settling
    assert schedule.plan == (constant, constant + last - begin)


@given(courses)
def test_a_replay_is_the_course_without_the_steps_thrown_away(options):
    metrics, every = options.pop("metrics"), options.pop("every")
    schedule = PlateauSchedule(**options)
    factors = run(schedule, metrics, every)
    constant, last = schedule.plan
    fall = factors[schedule.anneal_from:]

    replay = PlateauSchedule.replay(constant, last)
    # Whatever the metrics say:
    assert run(replay, list(range(70, 0, -1))) == pytest.approx(
        [1.0] * constant + fall)
    assert replay.plan == (constant, last)


@given(courses, st.integers(0, 60))
def test_a_schedule_goes_on_from_its_state(options, stop):
    metrics, every = options.pop("metrics"), options.pop("every")
    whole = run(PlateauSchedule(**options), metrics, every)
    first, factors = PlateauSchedule(**options), []
    while not first.finished and first.step < stop:
        factors.append(first.factor())
        first.advance()
        if first.step % every == 0 or first.finished:
            first.observe(metrics[(first.step - 1) // every])
    second = PlateauSchedule(**options)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert factors + run(second, metrics, every) == whole


def test_replays_and_cosines_go_on_from_their_state():
    for make in (lambda: PlateauSchedule.replay(5, 12),
                 lambda: CosineSchedule(9)):
        whole, first = run(make()), make()
        for _ in range(7):
            first.advance()
        second = make()
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert run(second) == whole[7:]


def test_without_validation_the_fall_ends_at_the_last_step():
    schedule = PlateauSchedule(max_steps=30, patience=1, anneal=0.5)
    factors = run(schedule)
    assert len(factors) == 30
    assert factors[:20] == [1.0] * 20 and factors[21] < 1.0
    assert schedule.plan == (20, 30)


def test_the_fall_begins_once():
    schedule = PlateauSchedule(max_steps=100, patience=3, anneal=1.0)
    for _ in range(10):
        schedule.advance()
    schedule.begin_anneal(schedule.step)
    schedule.advance()
    schedule.begin_anneal(schedule.step)
    schedule.observe(1.0)
    assert (schedule.anneal_from, schedule.last_step) == (10, 20)
    assert schedule.best == -math.inf  # what the fall reaches is not counted


def test_equal_metrics_are_no_improvement():
    schedule = PlateauSchedule(max_steps=1000, patience=2, anneal=0.5)
    for _ in range(3):
        for _ in range(10):
            schedule.advance()
        schedule.observe(0.5)
    assert schedule.settling
    assert (schedule.constant, schedule.anneal_from) == (10, 30)
    assert schedule.plan == (10, 10)
