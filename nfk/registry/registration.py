"""Makes a pair of versions: an embedder that can be served, and the embeddings it made."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nfk.registry.entries import CANDIDATE, PAIR, Entry, Names, entries, find, names
from nfk.tracking.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
    data adds nothing. The aliases move last: a registration that breaks off leaves versions that nothing points at.
    Uploads the weights, the right factor (4 p k bytes) and the embeddings (4 n k bytes).
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    pair = names(content.family)
    if kept := _same(client, pair, content.tags):
        return _candidates(client, *kept)
    mlflow.set_experiment(experiment)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    images = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(images, (-1, *content.examples.shape[1:]))]),
        outputs=Schema([TensorSpec(images, (-1, -1))]),
        params=ParamSchema([ParamSpec("k", DataType.integer, content.rank)]))
    package = Path(__file__).parents[1]
    with mlflow.start_run(run_name=f"register {content.family}", tags={
            **content.tags, "nfk.stage": "register", "nfk.family": content.family}) as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, on schemas and paths
        mlflow.log_metrics(dict(content.metrics))
        for file in content.files:
            mlflow.log_text(redact(file.read_text(encoding="utf-8")), file.name)
        mlflow.log_artifacts(str(content.embeddings), f"embeddings/{content.embeddings.name}")
        with redirect_stderr(io.StringIO()):  # MLflow tells what it does there; its faults are raised
            logged = mlflow.pyfunc.log_model(
                name="embedder", python_model=str(package / "serving.py"),
                artifacts={"embedder": str(content.embedder)}, signature=signature, input_example=content.examples,
                code_paths=[str(package), *map(str, content.code)],
                pip_requirements=[f"{name}=={version(name)}" for name in _REQUIRED],
                registered_model_name=pair.embedder)
    embedder = str(logged.registered_model_version)
    for key, value in content.tags.items():
        client.set_model_version_tag(pair.embedder, embedder, key, value)
    _ensure(client, pair.embeddings)
    made = client.create_model_version(
        pair.embeddings, source=f"runs:/{run.info.run_id}/embeddings/{content.embeddings.name}",
        run_id=run.info.run_id, tags={**content.tags, **content.embeddings_tags, PAIR: embedder})
    return _candidates(client, f"{pair.embedder}/{embedder}", f"{pair.embeddings}/{made.version}")


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


def _ensure(client: MlflowClient, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return client.create_registered_model(name)
