from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.search import overrides
from orchestrator.search.parameters import Choice, Range
from orchestrator.search.space_file import SearchSpace, load_space, read_space
from trainables.config import arm_key, science
from trainables.errors import ConfigError
from trainables.models.catalogue.registry import ENCODERS
from trainables.training.footprint import footprint

SPACES = sorted((Path(__file__).resolve().parents[3] / "search_spaces").glob("*.yaml"))
MODULES = {"lora.towers": "image"}
FAMILY_RATE = {"parameters": {"optim.learning_rate": {"float": "family"}}}


@pytest.fixture
def write(tmp_path: Path):
    """Returns a function that writes a space file, from text or values."""

    def write(content: str | dict[str, Any]) -> Path:
        path = tmp_path / "space.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def refused(content: dict[str, Any], *, changes: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read_space(content, changes=changes)
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    return message


def one(key: str, entry: Any) -> dict[str, Any]:
    return {"parameters": {key: entry}}


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_file_holds_and_survives_its_own_dictionary(path: Path) -> None:
    space = load_space(path)
    assert space.about
    assert read_space(space.to_dict()) == space


def test_demo_compares_at_least_four_lora_trials() -> None:
    space = load_space(next(path for path in SPACES if path.stem == "demo"))
    assert len(list(space.grid())) == space.num_trials >= 4
    assert {"lora.rank", "lora.target_modules"} <= set(space.parameters)


def test_cross_validation_has_each_arm_in_each_fold_with_each_seed() -> None:
    space = load_space(next(path for path in SPACES if path.stem == "xray3_cv"))
    named = space.named_trials()
    adapted = [trial for trial in named if not trial.is_baseline]
    assert {(t.name, t.config.data.fold, t.config.seed) for t in adapted} == {
        (name, fold, seed)
        for name in ("LoRA clip", "LoRA multi_positive")
        for fold in range(5)
        for seed in range(3)
    }
    assert len({arm_key(t.config, "data", "encoder") for t in adapted}) == 2
    frozen = [t for t in named if t.config.adapt.method == "none"]
    assert len(frozen) == 5, "a seed means nothing where nothing trains"


def test_the_study_s_table_has_every_registered_encoder_frozen_and_adapted() -> None:
    trials = load_space(next(path for path in SPACES if path.stem == "clip_covid")).named_trials()
    methods = {(t.config.encoder.name, t.config.adapt.method.partition("+")[0]) for t in trials}
    assert {(name, method) for name in ENCODERS for method in ("none", "lora")} <= methods
    classifiers = {
        (t.config.baseline.architecture, t.config.baseline.from_scratch)
        for t in trials
        if t.config.is_baseline
    }
    assert classifiers == set(itertools.product(("resnet18", "vit_b_16"), (False, True)))
    captions = {t.config.data.captions for t in trials if t.config.reads_captions}
    assert captions == {"finding", "blip_label", "mask_finding"}
    names = [trial.name for trial in trials if "seed" in science(trial.config)]
    assert set(Counter(names).values()) == {3}


def test_the_study_is_replicated_with_as_many_adapters_as_it_had() -> None:
    space = load_space(next(path for path in SPACES if path.stem == "seed_replica"))
    (lora, *_) = [trial.config for trial in space.named_trials() if trial.config.adapt.method == "lora"]
    assert footprint(lora).num_trainable == 860_160 + 1  # the logit scale counts, and stands still
    assert lora.lora.scaling * lora.lora.rank == 16


def test_frozen_encoder_is_a_baseline_even_if_not_listed() -> None:
    listed = read_space({"baselines": [{"name": "projection only", "adapt.method": "projection"}]})
    methods = [trial.config.adapt.method for trial in listed.named_trials()]
    assert methods == ["none", "projection"]


def test_baselines_run_for_every_encoder_that_is_searched(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    encoders = [str(tmp_path / "one"), str(tmp_path / "two")]
    space = read_space(one("encoder.name", {"choice": encoders}))
    assert [trial.config.encoder.name for trial in space.named_trials()] == encoders


# What is drawn


def test_default_configuration_comes_first() -> None:
    space = read_space(
        one("lora.rank", {"choice": [4, 8]}) | {"search": {"searcher": "grid"}, "fixed": {"num_epochs": 3}}
    )
    assert next(space.grid()) == space.default_sample() == {"lora.rank": 8}
    assert space.default_config()["num_epochs"] == 3


def test_default_outside_a_range_is_its_middle() -> None:
    space = read_space(
        {
            "parameters": {
                "lora.rank": {"int": [16, 64], "log": True},
                "optim.weight_decay": {"float": [0.2, 0.4]},
            }
        }
    )
    assert space.default_sample() == {"lora.rank": 32, "optim.weight_decay": pytest.approx(0.3)}


def test_draws_stay_in_their_ranges_and_use_all_of_them() -> None:
    space = read_space(
        {
            "parameters": {
                "lora.rank": {"int": [2, 4]},
                "optim.learning_rate": {"float": [1e-5, 1e-1], "log": True},
            }
        }
    )
    numbers = random.Random(0)
    draws = [space.draw(numbers) for _ in range(500)]
    assert {draw["lora.rank"] for draw in draws} == {2, 3, 4}
    rates = [draw["optim.learning_rate"] for draw in draws]
    assert min(rates) >= 1e-5
    assert max(rates) <= 1e-1
    below_the_geometric_middle = sum(rate < 1e-3 for rate in rates) / len(rates)
    assert below_the_geometric_middle == pytest.approx(0.5, abs=0.08)  # 3.6 standard errors


def conditional() -> SearchSpace:
    return read_space(
        {
            "fixed": {"lora.target_modules": "all"},
            "parameters": {
                "adapt.method": {"choice": ["projection", "lora"]},
                "lora.rank": {"choice": [4, 8], "when": {"adapt.method": "lora"}},
                "lora.dropout": {"choice": [0.0, 0.1], "when": {"lora.rank": [8]}},
            },
        }
    )


def test_parameter_counts_only_where_its_condition_holds() -> None:
    space = conditional()
    samples = [tuple(sample.values()) for sample in space.grid()]
    assert sorted(samples) == [("lora", 4), ("lora", 8, 0.0), ("lora", 8, 0.1), ("projection",)]
    config = space.resolve({"adapt.method": "projection", "lora.rank": 4, "lora.dropout": 0.1})
    assert (config.lora.rank, config.lora.dropout) == (8, 0.0), "a default, not the value that does not count"


def test_trial_is_named_by_what_it_varies() -> None:
    assert (
        conditional().label({"adapt.method": "lora", "lora.rank": 4, "lora.dropout": 0.1})
        == "method=lora rank=4"
    )


def test_family_stands_for_what_the_encoder_can_do(tmp_path: Path) -> None:
    parameters = {
        "optim.learning_rate": {"float": "family"},
        "lora.target_modules": {"choice": "family", "when": MODULES},
    }
    lite0 = read_space({"parameters": parameters}).parameters
    assert lite0["optim.learning_rate"] == Range(1e-3, 3e-3, log=True)
    assert lite0["lora.target_modules"] == Choice(
        ("pointwise", "expand", "project", "head", "all"), {"lora.towers": ("image",)}
    )
    clip = read_space({"parameters": parameters}, changes={"encoder.name": str(tmp_path)}).parameters
    assert clip["optim.learning_rate"] == Range(1e-5, 2e-3, log=True)
    assert "qkvo" in clip["lora.target_modules"].corners()


def test_family_presets_are_those_that_every_adapted_tower_knows() -> None:
    space = read_space(
        {
            "fixed": {"lora.towers": "both"},
            "parameters": {
                "lora.target_modules": {"choice": "family"},
            },
        }
    )
    assert space.parameters["lora.target_modules"].corners() == ("all",)


def test_family_needs_one_family(tmp_path: Path) -> None:
    parameters = {
        "encoder.name": {"choice": ["lite0-minilm", str(tmp_path)]},
        "optim.learning_rate": {"float": "family"},
    }
    assert "one encoder family" in refused({"parameters": parameters})


# What is refused


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            one("lora.rnk", {"choice": [4]}),
            "parameters.lora.rnk: no such field; did you mean 'lora.rank'?",
        ),
        ({"fixed": {"rank": 4}}, "did you mean 'lora.rank'?"),
        ({"fixed": {"lora.zzz": 4}}, "known: lora.rank, lora.scaling"),
        ({"paramters": {}}, "did you mean 'parameters'?"),
        ({"search": {"sercher": "tpe"}}, "search.sercher: no such key; did you mean 'searcher'?"),
        (
            {"search": {"searcher": "gird"}},
            "search.searcher: \"gird\" must be one of random, grid, tpe; did you mean 'grid'?",
        ),
        ({"fixed": {"lora": {"rank": 4}}}, "write dotted names on one level, such as 'lora.rank: ...'"),
        ({"arms": [{"name": "a", "los.kind": "clip"}]}, "arms[0].los.kind"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_name(content: dict[str, Any], said: str) -> None:
    assert said in refused(content)


@pytest.mark.parametrize(
    ("key", "entry", "said"),
    [
        ("optim.learning_rate", {"float": [1e-2, 1e-3]}, "low 0.01 is not below high 0.001"),
        ("optim.weight_decay", {"float": [0, 0.1], "log": True}, "must be above 0 on a log scale"),
        ("lora.rank", {"int": [0, 8]}, "parameters.lora.rank.int[0]: 0 must be at least 1"),
        ("lora.rank", {"int": [4, 100_000]}, "100000 must be at most 512"),
        ("lora.rank", {"choice": []}, "empty"),
        ("lora.rank", {"choice": [4, 4]}, "lists a value twice"),
        ("lora.rank", {"choice": [4, -1]}, "parameters.lora.rank.choice[1]: -1 must be at least 1"),
        ("lora.rank", {"float": [1, 8]}, "1.0 must be a whole number"),
        ("lora.rank", {"int": [1, 2, 3]}, "must be two numbers"),
        ("lora.rank", {"choice": ["4"]}, '"4" must be a whole number'),
        ("lora.rank", {"choice": [True]}, "true must be a whole number"),
        ("lora.rank", {"choice": [4], "int": [1, 2]}, "exactly one of"),
        ("lora.rank", {"log": True}, "exactly one of"),
        ("lora.rank", [4, 8], "write one of"),
        ("lora.rank", {"chioce": [4]}, "did you mean 'choice'?"),
        ("lora.rank", {"choice": "family"}, "family stands for"),
        ("lora.dropout", {"choice": [0.0], "log": True}, "belongs to a range"),
        ("optim.learning_rate", {"float": [float("nan"), 1]}, "must be a finite number"),
        ("lora.use_rslora", {"choice": ["yes"]}, "must be true or false"),
        ("adapt.method", {"choice": ["lorra"]}, "did you mean 'lora'?"),
        ("global_batch_size", {"int": [1, 8]}, "needs a pair to contrast with"),
        ("execution.micro_batch_size", {"choice": [8]}, "never change a result"),
        ("seed", {"choice": [0, 1]}, "set search.seeds, such as `search: {seeds: 3}`"),
        ("lora.rank", {"values": [4]}, "values: no such key (known: choice, float, int, log, when)"),
        ("data.fold", {"choice": [0, 1]}, "compare arms over `repeat: {data.fold:"),
        ("data.dataset", {"choice": ["phantom"]}, "cannot be compared"),
        ("lora.rank", {"choice": [4], "when": {"adapt.methd": "lora"}}, "did you mean 'adapt.method'?"),
        ("lora.rank", {"choice": [4], "when": {"adapt.method": "none"}}, "would never vary"),
    ],
)
def test_range_that_cannot_hold_is_named(key: str, entry: Any, said: str) -> None:
    assert said in refused(one(key, entry))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"fixed": {"data.fold": 0}}, "set together"),
        ({"fixed": {"lora.rank": 4}, **one("lora.rank", {"choice": [4]})}, "also set under fixed"),
        ({"repeat": {"seed": [0, 1]}}, "there are no arms to repeat"),
        ({"arms": [{"name": "a"}], **one("lora.rank", {"choice": [4]})}, "nothing to search"),
        ({"arms": [{"name": "a"}], "repeat": {"lora.rank": [1]}}, "only seed and data.fold can be repeated"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "arms[1].name: 'a' is used twice"),
        ({"arms": [{"loss.kind": "clip"}]}, "a `name`"),
        ({"arms": [{"name": "a"}], "search": {"num_trials": 3}}, "search.num_trials"),
        ({"objective": "test/probe_joint/accuracy"}, "must be measured on val"),
        ({"objective": "val/probe_join/accuracy"}, "did you mean 'probe_joint'?"),
        ({"objective": "val/probe_joint/loss"}, "none of macro_auroc"),
        (
            {"objective": "val/probe_pooled/accuracy", "fixed": {"probe.features": ["joint"]}},
            "is never measured",
        ),
        ({"fixed": {"encoder.name": "lite0-minilmm"}, **FAMILY_RATE}, "did you mean 'lite0-minilm'?"),
        (
            {"search": {"searcher": "grid"}, **one("optim.learning_rate", {"float": [1e-4, 1e-3]})},
            "a grid needs",
        ),
        ({"name": 5}, "name: 5 must be text"),
        ({"fixed": [1]}, "fixed: [1] must be a mapping"),
    ],
)
def test_contradiction_is_refused(content: dict[str, Any], said: str) -> None:
    assert said in refused(content)


def test_condition_must_stand_above() -> None:
    parameters = {
        "lora.rank": {"choice": [4, 8], "when": {"adapt.method": "lora"}},
        "adapt.method": {"choice": ["lora", "projection"]},
    }
    assert "must be listed above 'lora.rank'" in refused({"parameters": parameters})


def test_a_corner_that_breaks_a_rule_between_fields_is_found() -> None:
    arms = [{"name": "in folds", "data.num_folds": 5, "data.fold": 5}]
    assert "must be below data.num_folds=5" in refused({"arms": arms})


# --set


def test_set_fixes_what_was_searched(write: Any) -> None:
    path = write({"parameters": {"lora.rank": {"choice": [4, 8]}, "lora.dropout": {"choice": [0.0, 0.1]}}})
    space = load_space(path, ["lora.rank=16", "search.num_trials=3", "name=mine", "optim.learning_rate=1e-3"])
    assert list(space.parameters) == ["lora.dropout"]
    assert space.fixed == {"lora.rank": 16, "optim.learning_rate": 1e-3}
    assert (space.name, space.num_trials) == ("mine", 3)


def test_set_drops_parameters_that_can_no_longer_count() -> None:
    content = {
        "parameters": {
            "lora.towers": {"choice": ["image", "both"]},
            "lora.target_modules": {"choice": "family", "when": MODULES},
        }
    }
    assert list(read_space(content, changes={"lora.towers": "both"}).parameters) == []
    assert list(read_space(content, changes={"lora.towers": "image"}).parameters) == ["lora.target_modules"]


def test_set_cannot_change_what_the_arms_compare() -> None:
    content = {"arms": [{"name": "a", "loss.kind": "clip"}, {"name": "b", "loss.kind": "multi_positive"}]}
    assert "the arms set this field" in refused(content, changes={"loss.kind": "clip"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lora.rnk=8", "--set lora.rnk: no such field; did you mean 'lora.rank'?"),
        ("lora.rank=0", "--set lora.rank: 0 must be at least 1"),
        ("lora.rank=eight", '"eight" must be a whole number'),
        ("lora.rank", "write key=value"),
        ("encoder.image_size=none", "must be a whole number or null"),
        ("searchh.num_trials=3", "did you mean 'search.num_trials'?"),
        ("search.num_trials=many", "search.num_trials"),
        ("lora.rank=[4", "--set lora.rank"),
    ],
)
def test_set_is_checked(write: Any, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_space(write({"name": "empty"}), [text])
    assert said in str(caught.value)


def test_data_root_is_absolute_before_it_travels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_space({"fixed": {"data.root": "images"}}).fixed["data.root"] == str(tmp_path / "images")
    assert read_space({"fixed": {"data.prompts": "a.yaml"}}).fixed["data.prompts"] == str(tmp_path / "a.yaml")


def test_arms_may_compare_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"name": name, "adapt.method": "lora", "data.prompts": f"{name}.yaml"} for name in ("a", "b")]
    baselines = [{"name": "net", "adapt.method": "baseline"}]
    space = read_space({"arms": rows, "baselines": baselines, "fixed": {"data.prompts": "c.yaml"}})
    named = {trial.name: trial.config.data.prompts for trial in space.named_trials()}
    assert (named["a"], named["b"]) == (tmp_path / "a.yaml", tmp_path / "b.yaml")
    twice = [*baselines, {"name": "again", "adapt.method": "baseline", "data.prompts": "a.yaml"}]
    nets = read_space({"baselines": twice}).named_trials()
    assert [trial.name for trial in nets if trial.config.is_baseline] == ["net"]  # it reads no words


# The file itself


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fixed:\n  lora.rank: 4\n  lora.rank: 8\n", "line 3: 'lora.rank' is set twice"),
        ("name: !!python/object/apply:os.system ['touch pwned']\n", "the tag"),
        ("about: &a text\nname: *a\n", "anchors and aliases are refused"),
        ("fixed: " + "{a: " * 100 + "1" + "}" * 100, "nested deeper"),
        ("fixed: " + "[" * 50_000, "nested deeper"),
        ("fixed: {lora.rank: 4", "line 1"),
        ("fixed: {4: 4}", "a key must be text"),
        ("- 1\n", "a search space is a mapping"),
        ("", "a search space is a mapping"),
        ("name: a\n---\nname: b\n", "another document"),
        ("about: " + "x" * 1_000_001, "larger than"),
        ("name: \x07", "not YAML"),
    ],
)
def test_hostile_or_broken_yaml_is_refused(write: Any, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_space(write(text))
    assert said in str(caught.value)
    assert str(tmp_path / "space.yaml") in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_space(tmp_path / "space.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_space(tmp_path)


def test_numbers_are_read_as_people_write_them(write: Any) -> None:
    space = load_space(
        write("fixed: {optim.learning_rate: 1e-3, optim.weight_decay: .5, optim.max_grad_norm: 2}")
    )
    assert list(space.fixed.values()) == [1e-3, 0.5, 2]


@pytest.mark.parametrize("text", ["010", "0x10", "1_000", "12:30"])
def test_yaml_1_1_surprises_are_text_and_so_refused(write: Any, text: str) -> None:
    with pytest.raises(ConfigError, match="must be a whole number"):
        load_space(write(f"fixed: {{num_epochs: {text}}}"))


def test_auto_precision_is_settled_when_the_space_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrides, "faster_precision", lambda device: "bfloat16")
    space = read_space({"fixed": {"encoder.precision": "auto", "execution.device": "cpu"}})
    assert space.fixed["encoder.precision"] == "bfloat16"
    monkeypatch.setattr(overrides, "faster_precision", lambda device: "float32")
    assert read_space(space.to_dict()) == space  # going on elsewhere settles nothing anew
    assert space.resolve({}).encoder.precision == "bfloat16"


def test_auto_precision_leaves_what_trains_every_weight_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrides, "faster_precision", lambda device: "bfloat16")
    space = load_space(
        next(path for path in SPACES if path.stem == "clip_covid"),
        ["encoder.precision=auto", "execution.device=cpu"],
    )
    precisions = {trial.config.adapt.method: trial.config.encoder.precision for trial in space.named_trials()}
    assert (precisions["full"], precisions["lora"], precisions["none"]) == ("float32", "bfloat16", "bfloat16")
    assert read_space(space.to_dict()) == space
    fixed = {"encoder.precision": "auto", "execution.device": "cpu"}
    searched_too = read_space({"fixed": fixed, "parameters": {"adapt.method": {"choice": ["lora", "full"]}}})
    assert searched_too.fixed["encoder.precision"] == "float32"
    with pytest.raises(ConfigError, match=r"adapt\.method=full freezes none"):
        read_space({"fixed": {"encoder.precision": "bfloat16", "adapt.method": "full"}})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.uncertain", "ones"),
        ("data.uncertain", {"Edema": "ones"}),
        ("data.blank", "zeros"),
        ("data.rename", {"sick": "ill"}),
        ("data.manifest", "negbio.csv"),
    ],
)
def test_rows_that_read_other_labels_are_different_trials(field: str, value: Any) -> None:
    rows = [{"name": "as published"}, {"name": "other", field: value}]
    trials = read_space({"arms": rows}).named_trials()
    assert [trial.name for trial in trials if not trial.is_baseline] == ["as published", "other"]


def test_a_mapping_is_a_value_of_a_field_that_takes_one() -> None:
    space = read_space({"fixed": {"data.uncertain": {"Edema": "ones"}}})
    assert space.resolve({}).data.uncertain == (("Edema", "ones"),)
    assert read_space(space.to_dict()) == space
    assert "must be one of ignore, ones, zeros" in refused({"fixed": {"data.uncertain": {"Edema": "one"}}})


# More than one objective, constraints, seeds


def searched(**blocks: Any) -> dict[str, Any]:
    return one("lora.rank", {"choice": [4, 8]}) | blocks


def test_constraints_and_a_second_objective_survive_the_space_s_own_dictionary() -> None:
    limits = {"perf/num_trainable_parameters": {"at_most": 500_000}, "val/probe_joint/nll": {"at_most": 0.9}}
    space = read_space(searched(constraints=limits, also_minimise="perf/seconds", search={"seeds": 3}))
    assert space.constraints["val/probe_joint/nll"].at_most == 0.9
    assert read_space(space.to_dict()) == space


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("val/probe_joint/accuracy", "none of nll, brier, ece"),
        ("test/probe_joint/nll", "must be measured on val"),
        ("perf/num_trainable_weights", "did you mean 'perf/num_trainable_parameters'?"),
    ],
)
def test_only_what_is_measured_and_better_when_lower_is_minimised(key: str, words: str) -> None:
    message = refused(searched(also_minimise=key))
    assert message.startswith("also_minimise: ")
    assert words in message


def test_the_duration_of_what_a_scheduler_stops_is_not_compared() -> None:
    assert "use search.scheduler=none" in refused(
        searched(also_minimise="perf/seconds", search={"scheduler": "asha"})
    )


def test_seeds_belong_to_a_search_alone() -> None:
    arms = {"arms": [{"name": "a", "adapt.method": "lora"}], "search": {"seeds": 3}}
    assert "use repeat.seed" in refused(arms)
    baselines = [{"name": "frozen", "adapt.method": "none", "seed": 7}]
    assert "baseline 'frozen' sets a seed" in refused(searched(baselines=baselines, search={"seeds": 3}))
    assert "search.seeds" in refused(searched(search={"seeds": 0}))
