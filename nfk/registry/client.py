"""The one place that opens MLflow's registry, and turns its faults into one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nfk.one_line import OneLine
from nfk.params import TrackingParams
from nfk.tracking.delivery import tracking_uri
from nfk.tracking.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ADDRESS = "MLFLOW_TRACKING_URI"


class RegistryError(OneLine):
    """The registry cannot do what is asked; the message is one line."""


class NotGoodEnough(RegistryError):
    """A candidate that the gate keeps from the championship."""


@contextmanager
def connect(params: TrackingParams) -> Iterator[MlflowClient]:
    """A client of the tracker in force; RegistryError for whatever it refuses and when it is away.

    A server that does not answer is given up after two tries of 20 s. Costs MLflow's import, about 2 s.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow
    import requests
    from mlflow.exceptions import MlflowException

    uri, given = tracking_uri(params), os.environ.get(_ADDRESS)
    mlflow.set_tracking_uri(uri)  # for MLflow's own functions; it sets the variable too
    try:
        yield mlflow.MlflowClient(tracking_uri=uri)
    except (MlflowException, requests.RequestException) as error:  # the latter: files on their way
        reason = redact(" ".join(str(error).split()))[:300]
        raise RegistryError(f"MLflow at {redact(uri)}: {reason}; check its address "
                            "(MLFLOW_TRACKING_URI) and that it answers") from None
    finally:
        os.environ.pop(_ADDRESS, None)
        if given is not None:
            os.environ[_ADDRESS] = given
