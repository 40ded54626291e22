"""Strict arrays for every test: shapes and dtypes checked at run time, promotion of either kind refused."""

import atexit
import gc
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven processes a server, of 7 s each to start
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["MPLBACKEND"] = "Agg"

# Compiling takes most of a run's time, and the tests' networks are too small to gain from LLVM's dearer passes, from
# fusions lowered by MLIR, or from code compiled in 32 parts: half of the processor time goes with them. What the README
# shows is run without (tests/test_readme.py), as its readers do.
os.environ.setdefault("XLA_FLAGS", " ".join((
    "--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")))

# Several workers share the cores, and OpenBLAS's threads wait for one another by spinning (nfk/linalg/blas.py). For
# workers and what tests start; a first process has NumPy already, for which the Makefile says the same.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# One store of compiled programs for this run, its parallel workers and the pipelines they start: most of a run's time
# is XLA compiling the same networks again. It ends with the run, so no later run meets a program of older code.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.mkdtemp(prefix="nfk-programs-")
    atexit.register(shutil.rmtree, _programs, ignore_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": _programs,
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(4 << 30),  # with a bound JAX locks the store, so no half entry is read
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }

from jaxtyping import install_import_hook

install_import_hook("nfk", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402
from xdist.scheduler import LoadFileScheduling  # noqa: E402

_MOST_MAPPINGS = 8_000
_LONG = ("tests/pipeline/", "tests/infra/", "tests/test_notebooks.py")


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Each compiled program takes 1.4 MB and three memory mappings, of which a process may have 65,530; with ten
    thousand of them compiling takes a third longer. So a worker drops all it has when there are many."""
    yield
    with suppress(FileNotFoundError):  # no Linux
        if len(Path("/proc/self/maps").read_text().splitlines()) > _MOST_MAPPINGS:
            jax.clear_caches()
            gc.collect()


class _TogetherByNetwork(LoadFileScheduling):
    """What one worker runs: a file, for its fixtures; of tests/models, what is about one network in whichever files, so
    that each is trained and compiled once."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if file.startswith("tests/models/"):
            from tests.models.small_networks import CONFIGS

            named = [*test.partition("[")[2].rstrip("]").split("-"), Path(file).stem.removeprefix("test_")]
            return next((f"network {name}" for name in named if name in CONFIGS), file)
        return file


def pytest_collection_modifyitems(items):
    """Files of few long tests first, so that the short ones fill the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


def pytest_xdist_make_scheduler(config, log):
    return _TogetherByNetwork(config, log) if config.getvalue("dist") == "loadfile" else None


jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
