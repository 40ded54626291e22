"""The embedder as MLflow serves it: a model in code, so that nothing is unpickled.

`mlflow models serve -m models:/nfk-gan-embedder@champion --env-manager local` answers POST /invocations with
`{"inputs": [[...], ...]}`: images as float32 in [0, 1] of shape (n, h, w, c). Optional `"params": {"k": 32}` keeps the
leading k numbers of each vector. A wrong shape, dtype or range is status 400 with one line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

from nfk.embedder import Embedder, EmbedderError, code_of


class ServedEmbedder(PythonModel):
    """Images in, vectors out."""

    def load_context(self, context: Any) -> None:
        folder = context.artifacts["embedder"]
        # MLflow's own server runs what its artifacts bring along; `nfk serve` holds it against the registry first
        self._embedder = Embedder.load(folder, code=code_of(Path(folder)))

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        rank = self._embedder.rank
        k = int((params or {}).get("k", rank))
        if not 1 <= k <= rank:
            raise _refused(f"k={k} must be between 1 and {rank}, the rank of this embedder")
        try:
            return self._embedder(np.asarray(model_input, np.float32))[:, :k]
        except EmbedderError as error:
            raise _refused(str(error)) from None


def _refused(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(ServedEmbedder())
