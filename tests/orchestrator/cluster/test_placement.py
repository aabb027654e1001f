"""What holds a trial, and what it waits for: arithmetic alone."""

import random

import pytest

from orchestrator.cluster.placement import (
    CPU,
    GPU,
    Need,
    Room,
    can_ever_hold,
    per_node,
    place_key,
    waits_for,
)
from orchestrator.cluster.resources import Machine


def room(total: tuple[float, float], free: tuple[float, float] | None = None, **more) -> Room:
    """Cores and GPUs."""
    names = (CPU, GPU)
    return Room(
        "n", dict(zip(names, total, strict=True)), dict(zip(names, free or total, strict=True)), **more
    )


PAIR = Need(num_workers=2, cpus=1, gpus=1)


def test_a_worker_takes_all_of_its_resources_from_one_node():
    assert PAIR.places({CPU: 8, GPU: 2}) == 2
    assert PAIR.places({CPU: 1, GPU: 2}) == 1
    assert PAIR.places({CPU: 8}) == 0
    assert Need(1, cpus=3, gpus=0).places({CPU: 8, GPU: 4}) == 2


@pytest.mark.parametrize(("share", "num"), [(0.5, 4), (0.4, 4), (0.3333, 6), (0.25, 8)])
def test_a_share_never_stands_on_two_gpus(share: float, num: int):
    assert Need(1, cpus=1, gpus=share).places({CPU: 16, GPU: 2}) == num


def test_workers_may_stand_apart_but_each_needs_a_place():
    assert can_ever_hold(PAIR, [room((1, 1)), room((1, 1))])
    assert not can_ever_hold(PAIR, [room((1, 1)), room((8, 0))])
    assert not can_ever_hold(PAIR, [room((1, 1)), room((1, 1), is_leaving=True)])
    assert can_ever_hold(PAIR, [room((1, 1))], coming=[Machine(4, 1, 16)])


def test_no_order_of_starts_and_ends_locks_trials_up():
    """Ray gives all places or none: while one trial runs, one ends; while none runs, any one fits."""
    draws = random.Random(3)
    for _ in range(200):
        nodes = [(draws.randint(1, 8), draws.randint(0, 4)) for _ in range(draws.randint(1, 5))]
        need = Need(draws.randint(1, 4), cpus=draws.randint(1, 2), gpus=draws.choice([0, 1]))
        free = [need.places(dict(zip((CPU, GPU), node, strict=True))) for node in nodes]
        at_once, running = sum(free) // need.num_workers, []
        if not at_once:
            continue
        for _ in range(50):
            if len(running) < at_once:  # as many as were planned always find their places, wherever
                places = []
                for _ in range(need.num_workers):
                    number = draws.choice([number for number, left in enumerate(free) if left > 0])
                    free[number] -= 1
                    places.append(number)
                running.append(places)
            if running and draws.random() < 0.6:
                for number in running.pop(draws.randrange(len(running))):
                    free[number] += 1


def test_what_is_short_is_named_with_what_is_free():
    busy = [room((8, 2), (8, 1)), room((8, 2), (8, 0))]
    assert waits_for(PAIR, busy) == "waits for 2 GPUs: 1 of 4 free"
    assert waits_for(Need(1, 4, 0), [room((8, 0), (3, 0))]) == "waits for 4 CPU cores: 3 of 8 free"
    scattered = [room((2, 2), (0, 2)), room((2, 2), (2, 0))]
    assert "only 0 fit, as the free resources are scattered" in waits_for(PAIR, scattered)
    assert waits_for(PAIR, [room((2, 2))]) == "waits for Ray to place the trial"


def test_what_no_node_can_hold_waits_for_one():
    here = [room((0, 0)), room((4, 1))]
    assert waits_for(PAIR, here) == (
        "waits for a node: a trial takes 2 workers of 1 GPU and 1 CPU core, and there are 2 nodes with "
        "0 + 1 GPUs and 0 + 4 CPU cores"
    )
    assert waits_for(PAIR, here, [Machine(4, 1, 16)]).endswith(", 1 may come")
    assert "and there is no node" in waits_for(PAIR, [])


def test_nodes_are_listed_one_by_one_and_many_are_counted():
    assert per_node([{GPU: 2}, {GPU: 1}], [GPU]) == "2 nodes with 2 + 1 GPUs"
    assert per_node([{GPU: 8}] * 30 + [{GPU: 4}], [GPU]) == "31 nodes with 30 × 8 + 1 × 4 GPUs"


def test_the_places_of_one_attempt_are_no_other_s():
    assert place_key("01", "ab", 1) == "01/ab/1/"
    assert not place_key("01", "ab", 12).startswith(place_key("01", "ab", 1))
    assert place_key("01", "ab", 1).startswith(place_key("01"))
