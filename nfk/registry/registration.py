"""Makes a pair of versions: an embedder that can be served, and the embeddings it made."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from nfk import durable
from nfk.registry.client import RegistryError
from nfk.registry.entries import CANDIDATE, PAIR, Entry, Names, entries, find, names
from nfk.registry.once import made_once
from nfk.store import json_digest
from nfk.tracking.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

PACKAGE = Path(__file__).parents[1]
_NAME, _RECORD = "embedder", "nfk.record_id"
_VERSIONS = "mlflow.modelVersions"
"""by which MLflow's pages lead from a run's model to the registered version"""
_METRICS_A_BATCH = 1000  # the limit of MLflow's REST interface

_REQUIRED = ("jax", "flax", "numpy", "scipy", "zarr", "safetensors", "pydantic", "jaxtyping", "psutil",
             "scikit-learn", "optax", "threadpoolctl", "mlflow")


@dataclass(frozen=True)
class Content:
    """What one registration holds."""

    family: str
    embedder: Path
    """the folder of `nfk.embedder`"""
    embeddings: Path
    """the store of `embed`"""
    examples: np.ndarray
    """a few images, float32 in [0, 1]: the signature and the example of a request"""
    rank: int
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    """lineage and digests, on both versions"""
    embeddings_tags: Mapping[str, str]
    code: tuple[Path, ...]
    """packages and modules of the user's own that the network needs"""
    files: tuple[Path, ...]
    """dvc.lock and params.yaml: what makes it again"""


def register(client: MlflowClient, content: Content, experiment: str) -> tuple[Entry, Entry]:
    """Log everything as one run, make both versions from it and call them `candidate`; embedder, embeddings.

    A pair of the same bits and the same metric as are to be registered stays the one it is: a schedule over unchanged
    data adds nothing. The aliases move last: a registration that breaks off leaves versions that nothing points at, and
    the next of the same content goes on with its run, its model and its versions. Uploads the weights, the right factor
    (4 p k bytes) and the embeddings (4 n k bytes).
    """
    from mlflow.entities import LoggedModelStatus

    pair = names(content.family)
    if kept := _same(client, pair, content.tags):
        return _candidates(client, *kept)
    run = _run(client, content, _experiment(client, experiment))
    run_id = run.info.run_id
    model = _logged_model(client, run)
    if model.status != LoggedModelStatus.READY:
        try:
            _upload(client, content, run, model)
        except BaseException:
            with suppress(Exception):  # the fault itself is what is told
                client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id)
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    embedder = _version(client, pair.embedder, run_id, source=f"models:/{model.model_id}", model_id=model.model_id,
                        tags=dict(content.tags))
    client.set_logged_model_tags(model.model_id, {
        _VERSIONS: json.dumps([{"name": pair.embedder, "version": int(embedder)}])})
    embeddings = _version(
        client, pair.embeddings, run_id, source=f"runs:/{run_id}/embeddings/{content.embeddings.name}",
        tags={**content.tags, **content.embeddings_tags, PAIR: embedder})
    return _candidates(client, f"{pair.embedder}/{embedder}", f"{pair.embeddings}/{embeddings}")


def _experiment(client: MlflowClient, name: str) -> str:
    found = made_once(lambda: client.get_experiment_by_name(name),
                      lambda: client.get_experiment(client.create_experiment(name)))
    if found.lifecycle_stage != "active":
        raise RegistryError(f"tracking.experiment={name!r} was deleted in MLflow; restore it there, or name another in "
                            "params.yaml")
    return found.experiment_id


def _run(client: MlflowClient, content: Content, experiment_id: str) -> Run:
    """The run of this very content, one that broke off or a new one."""
    from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_SOURCE_NAME

    record = f"register-{json_digest({**content.tags, **content.embeddings_tags})[:32]}"
    tags = {**content.tags, "nfk.stage": "register", "nfk.family": content.family, _RECORD: record,
            MLFLOW_SOURCE_NAME: f"nfk registry register {content.family}"}
    if "git.commit" in tags:
        tags[MLFLOW_GIT_COMMIT] = tags["git.commit"]
    return made_once(
        lambda: next(iter(client.search_runs([experiment_id], f"tags.`{_RECORD}` = '{record}'", max_results=1)), None),
        lambda: client.create_run(experiment_id, run_name=f"register {content.family}", tags=tags))


def _logged_model(client: MlflowClient, run: Run) -> LoggedModel:
    """What MLflow knows a run's model by; its files come later."""
    experiment_id, run_id = run.info.experiment_id, run.info.run_id
    return made_once(
        lambda: next(iter(client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")), None),
        lambda: client.create_logged_model(experiment_id, name=_NAME, source_run_id=run_id))


def _upload(client: MlflowClient, content: Content, run: Run, model: LoggedModel) -> None:
    """The run's and the model's content. All of it may be sent again: it has the same names and times."""
    from mlflow.entities import LoggedModelOutput, Metric

    run_id, model_id = run.info.run_id, model.model_id
    metrics = [Metric(key, value, run.info.start_time, 0, model_id=model_id) for key, value in content.metrics.items()]
    for start in range(0, len(metrics), _METRICS_A_BATCH):
        client.log_batch(run_id, metrics=metrics[start:start + _METRICS_A_BATCH])
    for file in content.files:
        client.log_text(run_id, redact(file.read_text(encoding="utf-8")), file.name)
    client.log_artifacts(run_id, str(content.embeddings), f"embeddings/{content.embeddings.name}")

    def told() -> bool | None:
        outputs = client.get_run(run_id).outputs
        return any(output.model_id == model_id for output in (outputs.model_outputs if outputs else ())) or None

    made_once(told, lambda: client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)]))
    with TemporaryDirectory(prefix="nfk-register-") as scratch:
        folder = Path(scratch) / "model"
        _package(folder, content, run_id, model)
        client.log_model_artifacts(model_id, str(folder))


def _package(folder: Path, content: Content, run_id: str, model: LoggedModel) -> None:
    """The embedder as a model in code, in `folder`, as `mlflow models serve` takes it."""
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    images = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(images, (-1, *content.examples.shape[1:]))]),
        outputs=Schema([TensorSpec(images, (-1, -1))]),
        params=ParamSchema([ParamSpec("k", DataType.integer, content.rank)]))
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # MLflow tells what it does; its faults are raised
        warnings.simplefilter("ignore")  # on schemas and paths
        mlflow.pyfunc.save_model(
            path=str(folder), python_model=str(PACKAGE / "serving.py"), artifacts={"embedder": str(content.embedder)},
            mlflow_model=Model(artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=run_id,
                               model_id=model.model_id),
            signature=signature, input_example=content.examples, code_paths=[str(PACKAGE), *map(str, content.code)],
            pip_requirements=[f"{name}=={version(name)}" for name in _REQUIRED])
    for compiled in list(folder.rglob("__pycache__")):
        durable.remove_tree(compiled)


def _version(client: MlflowClient, name: str, run_id: str, **content: Any) -> str:
    """The number of the version of `name` that comes from the run."""
    from mlflow.exceptions import MlflowException

    def registered() -> Any:
        try:
            return client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    made_once(registered, lambda: client.create_registered_model(name))
    made = made_once(
        lambda: next(iter(client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")), None),
        lambda: client.create_model_version(name, run_id=run_id, **content))
    return str(made.version)


def _candidates(client: MlflowClient, *references: str) -> tuple[Entry, Entry]:
    for reference in reversed(references):  # the embedder's last: it is what is promoted
        name, version = reference.split("/")
        client.set_registered_model_alias(name, CANDIDATE, version)
    embedder, embeddings = (find(client, reference) for reference in references)
    return embedder, embeddings


def _same(client: MlflowClient, pair: Names, tags: Mapping[str, str]) -> tuple[str, str] | None:
    """The newest whole pair of the digests and the gate's metric that `tags` have; none that was made with uncommitted
    changes in the place of one that was not."""
    telling = {key: value for key, value in tags.items() if key.startswith(("digest.", "gate."))}
    acceptable = ("true", "false", None) if tags.get("git.dirty") == "true" else ("false", None)
    partners = {entry.tags.get(PAIR): entry for entry in entries(client, pair.embeddings)}
    for entry in entries(client, pair.embedder):
        if (entry.version in partners and entry.tags.get("git.dirty") in acceptable
                and all(entry.tags.get(key) == value for key, value in telling.items())):
            return entry.reference, partners[entry.version].reference
    return None
