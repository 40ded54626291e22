"""Strict arrays for every test: shapes and dtypes checked at run time, promotion of either kind refused."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["MPLBACKEND"] = "Agg"

from jaxtyping import install_import_hook

install_import_hook("nfk", "beartype.beartype")

import jax  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
