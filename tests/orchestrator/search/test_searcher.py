import warnings

import pytest

from orchestrator.search.searcher import open_searcher
from orchestrator.search.space import Draw, SearchSpace
from orchestrator.search.space_file import read_space

RANKS = {"lora.rank": {"choice": [1, 2, 4, 8, 16]}}


def space_of(searcher: str, num_trials: int | None = None, parameters: dict = RANKS, **blocks) -> SearchSpace:
    search = {"searcher": searcher, "num_trials": num_trials}
    return read_space({"name": "s", "parameters": parameters, "search": search} | blocks)


def drain(space: SearchSpace, score=lambda draw: 0.5, **also) -> list[Draw]:
    searcher, draws = open_searcher(space), []
    while (draw := searcher.ask()) is not None:
        draws.append(draw)
        searcher.tell(draw, {space.objective: score(draw)} | {key: also[key](draw) for key in also})
    return draws


def searched(draws: list[Draw]) -> list[Draw]:
    return [draw for draw in draws if not draw.is_baseline]


@pytest.mark.parametrize("kind", ["random", "grid", "tpe"])
def test_baselines_come_first_then_the_default(kind: str):
    draws = drain(space_of(kind, 4))
    assert draws[0].is_baseline
    assert draws[0].config.adapt.method == "none"
    assert draws[1].config.lora.rank == 8  # the field's own default
    assert len(searched(draws)) == 4


@pytest.mark.parametrize("kind", ["random", "grid", "tpe"])
def test_no_trial_is_drawn_twice_and_a_small_space_ends(kind: str):
    draws = searched(drain(space_of(kind, 50)))
    assert sorted(draw.config.lora.rank for draw in draws) == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_the_same_seed_draws_the_same_trials(kind: str):
    parameters = RANKS | {"optim.learning_rate": {"float": [1e-4, 1e-2], "log": True}}
    first, second = (
        [
            draw.config
            for draw in drain(space_of(kind, 6, parameters), lambda draw: draw.config.lora.rank / 16)
        ]
        for _ in range(2)
    )
    assert first == second


def test_a_parameter_counts_only_where_its_condition_holds():
    parameters = {
        "adapt.method": {"choice": ["lora", "projection"]},
        "lora.rank": {"choice": [2, 4], "when": {"adapt.method": ["lora"]}},
    }
    draws = searched(drain(space_of("tpe", 30, parameters)))
    assert sorted((draw.config.adapt.method, draw.config.lora.rank) for draw in draws) == [
        ("lora", 2),
        ("lora", 4),
        ("projection", 8),
    ]


def test_tpe_goes_where_scores_are_high():
    parameters = {"optim.learning_rate": {"float": [1e-4, 1e-1], "log": True}}

    def score(draw: Draw) -> float:
        rate = draw.config.optim.learning_rate
        return 1.0 if rate and rate > 3e-2 else rate or 0.0

    draws = [
        draw.config.optim.learning_rate for draw in searched(drain(space_of("tpe", 40, parameters), score))
    ]
    early, late = draws[:10], draws[-10:]
    assert sum(rate > 3e-2 for rate in late) > sum(rate > 3e-2 for rate in early)


def test_tpe_draws_on_while_trials_run_and_after_failures():
    searcher = open_searcher(space_of("tpe", 5))
    draws = [searcher.ask() for _ in range(6)]  # the baseline and all five, none told yet
    assert len({draw.config.lora.rank for draw in draws[1:]}) == 5
    for draw in draws:
        searcher.tell(draw, None)  # failed
    assert searcher.ask() is None


def test_arms_run_in_the_file_s_order_over_every_repeat():
    space = read_space(
        {
            "name": "s",
            "arms": [{"name": "a", "adapt.method": "lora"}, {"name": "b", "adapt.method": "projection"}],
            "repeat": {"seed": [0, 1]},
        }
    )
    draws = drain(space)
    assert [(draw.name, draw.config.seed) for draw in searched(draws)] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
    ]
    assert sum(draw.is_baseline for draw in draws) == 1  # a frozen encoder has no seed


def test_optuna_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drain(space_of("tpe", 3))


WEIGHTS = "perf/num_trainable_parameters"
RATES = {"optim.learning_rate": {"float": [1e-4, 1e-1], "log": True}}


def rate_of(draw: Draw) -> float:
    return draw.config.optim.learning_rate or 0.0


def late_rates(**blocks) -> list[float]:
    """Of 40 draws the last ten: a higher rate costs more, and scores better up to 1e-2."""
    space = space_of("tpe", 40, RATES, **blocks)
    draws = drain(space, lambda draw: min(rate_of(draw), 1e-2), **{WEIGHTS: rate_of})
    return [rate_of(draw) for draw in searched(draws)][-10:]


@pytest.mark.parametrize(
    "blocks",
    [{"constraints": {WEIGHTS: {"at_most": 1e-2}}}, {"also_minimise": WEIGHTS}],
    ids=["constraint", "second objective"],
)
def test_tpe_keeps_away_from_what_is_infeasible_or_costs_more_than_it_brings(blocks: dict):
    free, bound = late_rates(), late_rates(**blocks)
    assert sum(rate > 1e-2 for rate in bound) <= 4 < 6 <= sum(rate > 1e-2 for rate in free)


def test_tpe_learns_nothing_of_a_trial_that_did_not_measure_everything():
    space = space_of("tpe", 3, RATES, constraints={WEIGHTS: {"at_most": 1}}, also_minimise="perf/seconds")
    searcher = open_searcher(space)
    draws = [searcher.ask() for _ in range(4)]
    whole = {space.objective: 0.5, WEIGHTS: 2.0, "perf/seconds": 3.0}
    searcher.tell(draws[1], whole)
    searcher.tell(draws[2], {space.objective: 0.5})
    states = [(trial.state.name, trial.values, trial.constraints) for trial in searcher.study.trials]
    assert states[:2] == [("COMPLETE", [0.5, 3.0], {WEIGHTS: 1.0}), ("FAIL", None, {})]


def test_optuna_warns_of_nothing_with_two_objectives_and_a_constraint():
    blocks = {"constraints": {WEIGHTS: {"at_most": 1e-2}}, "also_minimise": WEIGHTS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(searched(drain(space_of("tpe", 12, RATES, **blocks), rate_of, **{WEIGHTS: rate_of}))) == 12
