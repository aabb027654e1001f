import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orchestrator.planning.identity import identify
from orchestrator.worker.failures import WorkerDied, explain
from orchestrator.worker.runner import TuneContext, check_inputs, check_words, finite, hash_results
from orchestrator.worker.trial_spec import TrialSpec
from trainables.artifacts import atomic_directory, file_sha256
from trainables.config import TrialConfig, from_flat, to_flat
from trainables.data.words.shipped import read_shipped
from trainables.data.words.words_file import to_yaml
from trainables.errors import ConfigError, DataError, WeightsUnavailable
from trainables.losses.collectives import OutOfMemory
from trainables.losses.global_batch import NonFiniteLoss
from trainables.models.catalogue.registry import ENCODERS
from trainables.models.files.weights import needed_parts, part_folder

PUBMED = "flaviagiammarino/pubmed-clip-vit-base-patch32"
OBJECTIVE = "val/probe_joint/macro_auroc"


@pytest.fixture
def spec(tmp_path: Path) -> TrialSpec:
    return TrialSpec(
        trial_key="key",
        attempt=1,
        config={"execution.num_threads": None},
        trainable="m:f",
        objective=OBJECTIVE,
        workdir=str(tmp_path / "work"),
        store=str(tmp_path / "store"),
        scratch=str(tmp_path),
        device="cpu",
        num_workers=1,
        cpus_per_trial=4,
        gpus_per_trial=0,
    )


@pytest.mark.parametrize(
    ("error", "cause", "message"),
    [
        (WeightsUnavailable("no weights"), "unavailable", "no weights"),
        (ConfigError("bad key"), "user_error", "bad key"),
        (DataError("bad file"), "user_error", "bad file"),
        (NonFiniteLoss("nan at step 3"), "non_finite", "nan at step 3"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", "CUDA out of memory"),
        (OutOfMemory("one row is too much"), "out_of_memory", "one row is too much"),
        (MemoryError("no room"), "out_of_memory", "no room"),
        (WorkerDied("worker group failed"), "process_died", "a worker died"),
        (WorkerDied("rank 1 was killed: low on memory"), "killed_for_memory", "out of memory"),
        (ZeroDivisionError("by zero"), "crash", "ZeroDivisionError: by zero"),
    ],
)
def test_a_failure_gets_the_cause_that_says_what_to_do(
    tmp_path: Path, error: Exception, cause: str, message: str
):
    found, text = explain(error, tmp_path)
    assert found == cause
    assert message in text
    assert (tmp_path / "error.txt").exists() == (cause == "crash")


def test_what_a_worker_said_stands_above_what_ray_wrapped(tmp_path: Path):
    (tmp_path / "failure-1.json").write_text(json.dumps(["non_finite", "nan at step 3"]))
    assert explain(RuntimeError("worker group failed"), tmp_path) == ("non_finite", "nan at step 3")


def test_a_number_that_is_not_finite_is_absent():
    assert finite({"a": 1, "b": math.nan, "c": math.inf, "d": torch.tensor(2.0)}) == {"a": 1.0, "d": 2.0}


def test_results_are_named_from_the_workdir_and_hashed(tmp_path: Path):
    (tmp_path / "results" / "adapter").mkdir(parents=True)
    (tmp_path / "results" / "adapter" / "weights").write_text("w")
    (tmp_path / "checkpoint").write_text("not a result")
    expected = {"results/adapter/weights": file_sha256(tmp_path / "results" / "adapter" / "weights")}
    assert hash_results(tmp_path) == expected
    assert hash_results(tmp_path / "nothing") == {}


def test_a_report_carries_epoch_metrics_and_the_score_that_schedulers_read(spec: TrialSpec):
    sent = []
    context = TuneContext(spec, device="cpu", send=sent.append, files=spec.files())
    context.report({"train/epoch": 3, "train/loss": 1.0, OBJECTIVE: 0.7, "val/none": math.nan})
    context.report({"train/loss": 0.5})
    assert [(result["epoch"], result.get("score")) for result in sent] == [(3, 0.7), (2, None)]
    TuneContext(replace(spec, is_compared=False), "cpu", sent.append, spec.files()).report(
        {spec.objective: 0.7}
    )
    assert "score" not in sent[-1]  # a scheduler passes over it
    assert json.loads(sent[0]["metrics"]) == {"train/epoch": 3.0, "train/loss": 1.0, OBJECTIVE: 0.7}
    assert context.workdir.is_dir()


def test_a_trial_of_several_workers_holds_no_core_itself(spec: TrialSpec):
    assert spec.resources() == {"cpu": 4, "gpu": 0}
    watches = replace(spec, num_workers=2, gpus_per_trial=2.0)
    assert set(watches.resources()) == {"node:__internal_head__", "memory"}  # no core, no GPU, no spot node
    assert watches.need.per_worker == {"GPU": 1, "CPU": 2}


def test_threads_are_the_trial_s_cores_unless_set(spec: TrialSpec):
    assert spec.num_threads == 4
    assert replace(spec, num_workers=2).num_threads == 2
    assert replace(spec, config={"execution.num_threads": 3}).num_threads == 3


def test_a_node_says_which_of_its_inputs_are_others_whatever_the_trial_is_called(spec: TrialSpec):
    spec = replace(spec, config=to_flat(TrialConfig()))
    here = identify(spec.trial)
    same = replace(spec, data_fingerprint=here.data, model_fingerprint=here.model)
    check_inputs(replace(same, trial_key="of when its weights were not here yet"))
    with pytest.raises(DataError, match=r"the data in data\.root are different on this node"):
        check_inputs(replace(same, data_fingerprint="other"))
    with pytest.raises(DataError, match="the weights of lite0-minilm are different on this node"):
        check_inputs(replace(same, model_fingerprint="other"))


def test_a_worker_refuses_words_that_were_edited_since_the_start(spec: TrialSpec, tmp_path: Path):
    path = tmp_path / "own.yaml"
    words = read_shipped("covid_qu_ex")
    path.write_text(to_yaml(words.classes, words.sources))
    spec = replace(spec, config=to_flat(from_flat({"data.prompts": str(path)})))
    check_words(replace(spec, words_fingerprint=identify(spec.trial).words))
    check_words(spec)  # a trial that reads no words
    with pytest.raises(DataError, match=rf"the words in {path} differ from those at the start"):
        check_words(replace(spec, words_fingerprint="other"))


def refusal(spec: TrialSpec, **fields: str) -> str:
    """Returns what a node says of a trial that the driver ordered on weights of its own."""
    spec = replace(spec, config=to_flat(from_flat(fields)))
    here = identify(spec.trial)
    wanted = {"model_fingerprint": here.model, "captioner_fingerprint": here.captioner}
    changed = "captioner_fingerprint" if spec.trial.needs_captioner else "model_fingerprint"
    with pytest.raises(DataError) as refused:
        check_inputs(replace(spec, data_fingerprint=here.data, **{**wanted, changed: "the driver's"}))
    return str(refused.value)


def test_a_node_says_what_brings_the_weights_that_it_lacks_or_has_otherwise(
    spec: TrialSpec, home: Path, tmp_path: Path
):
    for name, how in {
        "chexzero": "models convert best_64_0.0001_original_35000_0.864.pt --to chexzero'",
        PUBMED: f"models fetch {PUBMED} --revision COMMIT'",
    }.items():
        said = refusal(spec, **{"encoder.name": name})
        assert f"the weights of {name} are not on this node; " in said
        assert how in said
    for part in needed_parts(ENCODERS["chexzero"]):
        with atomic_directory(part_folder("chexzero", part)) as aside:
            (aside / "model.safetensors").touch()
    said = refusal(spec, **{"encoder.name": "chexzero"})
    assert "the weights of chexzero are different on this node than where the sweep was started; get " in said
    assert said.endswith("--to chexzero --replace'")
    blip = {"data.captions": "blip_label", "captioner.name": str(tmp_path)}
    assert f"the weights of {tmp_path} are not on this node; captioner.name={tmp_path}: " in refusal(
        spec, **blip
    )
    (tmp_path / "model.safetensors").touch()
    assert "different on this node than where the sweep was started; copy the files" in refusal(spec, **blip)


def test_an_order_takes_the_folders_of_its_node_and_makes_none(spec: TrialSpec, home: Path, tmp_path: Path):
    placed = replace(spec, storage=str(tmp_path), workdir="sweeps/a/trials/key", store="store")
    here = placed.at_home()
    assert (here.workdir, here.store) == (str(home / "sweeps/a/trials/key"), str(home / "store"))
    assert here.scratch == spec.scratch  # the driver's, which this node sees
    elsewhere = replace(placed, scratch=str(tmp_path / "of another machine")).at_home()
    assert elsewhere.scratch == str(home / "scratch")
    assert not list(home.iterdir())


def test_the_module_is_light_until_a_trial_runs():
    """The driver imports it before it knows that it will start anything."""
    code = "import sys, orchestrator.worker.runner; print(sorted({'ray', 'torch'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_freed_memory_goes_back_to_the_machine():
    code = """
from orchestrator.worker.runner import free_memory

def kept():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024

blocks = [bytes(1500) for _ in range(200_000)]
last = bytes(1500)  # above all others, so that glibc cannot give them back by itself
del blocks
before = kept()
free_memory()
print(before - kept())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 200  # MiB, of 290
