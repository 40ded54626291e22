"""Whole data sets: what 128 numbers of each network are worth beside what people would take instead.

    python -m tests.benchmarks.floors --data FOLDER [--set mnist|fashion|cifar10] [--seeds 0 1 2] [--families gan ..]
                                      [--paper]

FOLDER holds the set as IDX or Parquet. The networks learn from the training images without labels (a classifier with
them), the SVD sees 10,000, the probes the labels of those. Each seed draws other splits, weights and label draws.
--paper: with the paper's Fisher vectors, whitened element-wise and of any length. Runs the pipeline's own stages, in a
workspace for each seed below --work, each resumable; the result is results/SET.json, or SET_paper.json. About 10
minutes a seed on 2 cores (MNIST).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
REST = """\
statistics: {{model_samples: 2048{whitening}}}
svd: {{rank: 128, examples: 10000, memory_gib: 10.0{vectors}}}
embed: {{examples: 10000}}
evaluate: {{ranks: [128], labels: [100, 1000], draws: 5}}
"""
SETS = {
    "mnist": """\
seed: {seed}
data: {{name: mnist, source: {source}, train: 50000, validation: 5000, test: 10000}}
families:
  gan: {{model: dcgan, epochs: 6}}
  vae: {{model: conv_vae, epochs: 1, batch: 192}}
  classifier: {{model: lenet5, epochs: 5}}
""",
    "fashion": """\
seed: {seed}
data: {{name: fashion-mnist, source: {source}, train: 50000, validation: 5000, test: 10000}}
families:
  gan: {{model: dcgan, width: 24, generator_width: 24, epochs: 4}}
""",
    "cifar10": """\
seed: {seed}
data: {{name: cifar10, source: {source}, train: 45000, validation: 5000, test: 10000}}
families:
  gan: {{model: dcgan, width: 24, generator_width: 24, latent: 64, epochs: 5, learning_rate: 0.001}}
"""}
PAPER = {"whitening": ", whitening: diagonal", "vectors": ", damping: 0.001, unit_rows: false"}
BASELINE = {"gan": None, "vae": "activations-latent_mean", "classifier": "activations-penultimate"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--set", choices=list(SETS), default="mnist", dest="name")
    options.add_argument("--work", type=Path, default=Path(".nfk/floors"))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--families", nargs="+", help="default: all of the set")
    options.add_argument("--paper", action="store_true", help="the paper's Fisher vectors")
    asked = options.parse_args()
    results = RESULTS / f"{asked.name}{'_paper' if asked.paper else ''}.json"
    text = (SETS[asked.name] + REST).format(
        seed="{seed}", source="{source}", **(PAPER if asked.paper else dict.fromkeys(PAPER, "")))
    families = asked.families or [name for name in BASELINE if f"\n  {name}: " in text]
    for seed in asked.seeds:
        workspace = (asked.work / f"{asked.name}-{seed}{'-paper' if asked.paper else ''}").resolve()
        workspace.mkdir(parents=True, exist_ok=True)
        (workspace / "params.yaml").write_text(text.replace("{seed}", str(seed)).replace(
            "{source}", json.dumps(str(asked.data.resolve()))))
        if not list(workspace.glob("data/*.zarr")):
            run(workspace, "data")
        for family in families:
            for stage, made in (("pretrain", f"models/{family}"), ("statistics", f"statistics/{family}.zarr"),
                                ("svd", f"factors/{family}.zarr"), ("embed", f"embeddings/{family}.zarr")):
                if not (workspace / made).exists():
                    run(workspace, stage, family)
            output = subprocess.run([sys.executable, "-m", __spec__.name, "--measure", str(workspace), family],
                                    check=True, stdout=subprocess.PIPE, text=True)
            keep(results, text, seed, family, json.loads(output.stdout))


def run(workspace: Path, *arguments: str) -> None:
    """One stage by the command line, as users run it."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-m", "nfk", *arguments], cwd=workspace, env=environment, check=True)


def measure(workspace: Path, family: str) -> dict[str, Any]:
    """Test accuracies of the representations that the floors compare, and the spectra."""
    from nfk import store
    from nfk.evaluation.features import standardise
    from nfk.evaluation.few_labels import few_labels
    from nfk.evaluation.linear_probe import logistic_probe
    from nfk.params import load
    from nfk.progress import progress
    from nfk.stages import images, network, representations
    from nfk.stages.evaluate import spectra
    from nfk.stages.labelled import labels

    os.chdir(workspace)
    params = load()
    data, net = images.load(params), network.load(params, family)
    truth, found = labels(params, data), {}
    stored = store.read(f"embeddings/{family}.zarr")
    wanted = [*representations.embeddings(params, stored)]
    wanted += [features for features in representations.pixels(params, data) if features.name == "pca-128"]
    wanted += [features for features in representations.activations(params, net, data, params.svd.rank)
               if features.name == BASELINE[family]]
    for features in wanted:
        scaled = standardise(features)
        full = logistic_probe(scaled, truth, params.evaluate.strengths)
        few = few_labels(scaled, truth, params.evaluate.labels, draws=params.evaluate.draws,
                         strengths=params.evaluate.strengths, seed=params.seed)
        found[features.name] = {"accuracy": full.accuracy, "strength": full.strength,
                                **{f"labels-{count}": result.mean for count, result in few.items()}}
        print(f"{family} seed {params.seed}: {features.name}: {found[features.name]}", file=sys.stderr)
    factors = store.read(f"factors/{family}.zarr")
    with progress("spectrum") as report:
        spectrum = spectra(params, net, data, network.load_statistics(params, net, data)[0], report)
    at = spectrum["components"].index(100)
    return {"parameters": net.card["parameters"], "metrics": net.card["metrics"], "features": found,
            "explained_variance_at_100": {name: values[at] for name, values in spectrum.items()
                                          if name not in ("components", "untrained_draws")},
            "untrained_draws_at_100": [draw[at] for draw in spectrum["untrained_draws"]],
            "largest_residual": float(np.max(factors["residuals"][:])), "strategy": factors.attributes["strategy"]}


def keep(results: Path, text: str, seed: int, family: str, result: dict[str, Any]) -> None:
    """Add one run to the results, and the mean and standard deviation over the seeds run so far."""
    kept = json.loads(results.read_text()) if results.exists() else {"runs": {}}
    kept["environment"] = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    kept["params"] = text
    kept["runs"].setdefault(family, {})[str(seed)] = result
    kept["summary"] = {family: summary(list(runs.values())) for family, runs in kept["runs"].items()}
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    def spread(values: list[float]) -> dict[str, float]:
        return {"mean": float(np.mean(values)), "n": len(values),
                "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None}

    return {name: {quantity: spread([run["features"][name][quantity] for run in runs])
                   for quantity in runs[0]["features"][name] if quantity != "strength"}
            for name in runs[0]["features"]}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), sys.argv[3])))
    else:
        main()
