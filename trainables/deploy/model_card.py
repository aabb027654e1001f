"""The model card of a model folder, `README.md`, in the format of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from trainables.deploy.facts import ModelFacts
from trainables.scoring.metric_names import interval_keys

SHOWN = ("macro_auroc", "accuracy", "macro_ap", "nll", "ece")


def model_card(facts: ModelFacts, files: Mapping[str, str]) -> str:
    """Returns the text of the card. `files` maps a file of the folder to what it holds."""
    weights, data = facts.weights, facts.data
    head = {
        "library_name": "clip-orchestrator",
        "pipeline_tag": "image-classification",
        "tags": ["chest-x-ray", "medical", "research-only", str(facts.trial["adapt"]["method"])],
    }
    if weights["name"].count("/") == 1 and weights.get("revision"):
        head["base_model"] = weights["name"]
    classes = "findings" if facts.task == "multilabel" else "classes"
    counts = ", ".join(f"{number:,} {split}" for split, number in data.num_images.items())
    revision = f"revision {weights['revision']}" if weights.get("revision") else "as published"
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
            f"# {weights['name']} on {data.dataset}\n",
            f"**Research only.** This model gives probabilities of {len(facts.classes)} {classes} for a "
            f"chest X-ray: {', '.join(facts.classes)}.\n",
            "```python\nfrom trainables import load_model\n\n"
            'for prediction in load_model("FOLDER").predict(["image.png"]):\n'
            "    print(prediction.label, prediction.probabilities, prediction.unlike_training)\n```\n",
            "## Training\n",
            f"- Weights at the start: {weights['name']}, {revision}.",
            f"- Licence of these weights: {weights['licence']}.",
            f"- Method: `{facts.trial['adapt']['method']}`. `model.json` has all settings.",
            f"- Data: {data.dataset}, fingerprint {data.fingerprint}; images: {counts}.",
            *(f"- {note}" for note in data.notes),
            "\n## Results on val, with 95 % intervals\n",
            *_table(facts),
            "\nThe sweep chose among trials by val, so these values are optimistic. The leaderboard of the "
            "sweep has the values on test.\n",
            "## Calibration and thresholds\n",
            "Probes are refitted on train and val. Calibration and thresholds are fitted on val, to the "
            "scores of the fit on train alone.\n",
            "## Limits\n",
            *(f"- {limit}" for limit in facts.limits),
            "\n## Files\n",
            *(f"- `{name}`: {what}" for name, what in files.items()),
            "",
        ]
    )


def _table(facts: ModelFacts) -> list[str]:
    shown = [name for name in SHOWN if any(name in each.metrics for each in facts.systems.values())]
    lines = [f"| system | {' | '.join(shown)} |", f"|---|{'---|' * len(shown)}"]
    for name, system in facts.systems.items():
        cells = [_cell(system.metrics, metric) for metric in shown]
        mark = " (default)" if name == facts.default_system else ""
        lines.append(f"| {name}{mark} | {' | '.join(cells)} |")
    return lines


def _cell(metrics: Mapping[str, float], metric: str) -> str:
    if metric not in metrics:
        return ""
    ends = [metrics[key] for key in interval_keys(metric) if key in metrics]
    return f"{metrics[metric]:.3f}" + (f" [{ends[0]:.3f} {ends[1]:.3f}]" if len(ends) == 2 else "")
