"""A clone of this project in a folder of its own, with params.yaml cut down to seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nfk import durable

SMALL = """\
seed: 3
data: {name: digits, train: 300, validation: 60, test: 100}
families:
  gan: {model: dcgan, width: 2, generator_width: 4, latent: 8, epochs: 1}
  vae: {model: conv_vae, width: 2, hidden: 8, latent: 4, epochs: 1}
  classifier: {model: mlp, hidden: 16, epochs: 2}
theta: {}
statistics: {model_samples: 64, block: 32}
svd: {rank: 12, oversampling: 4, passes: 5, strategy: stream, block: 32, accept_unconverged: true}
embed: {scaling: none}
evaluate: {ranks: [4, 12], labels: [20, 60], draws: 2, strengths: [0.1, 1.0], neighbours: [1, 5], spectrum_examples: 40,
           initialisations: 1}
studies: {}
report: {title: A small case}
"""
# one family, and the shortest evaluation: for what is done around the stages
_LEFT_OUT = ("  gan:", "  vae:", "evaluate:", "    ")
TINY = "\n".join(line for line in SMALL.splitlines() if not line.startswith(_LEFT_OUT)).replace(
    "theta: {}", 'theta: {classifier: {exclude: [".*bias"]}}') + """
evaluate:
  {ranks: [4, 12], labels: [20], draws: 2, strengths: [1.0], neighbours: [1], spectrum_examples: 20, initialisations: 1}
"""


class Workspace:
    """Runs the project's commands in a clone, as its users do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("NFK_", "MLFLOW_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder),
            # stages that many tests run again, each a hundred small programs: worth keeping, which a test's own are not
            "JAX_COMPILATION_CACHE_DIR": str(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) / "stages"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.01",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "GIT_AUTHOR_NAME": "test", "GIT_AUTHOR_EMAIL": "test@example.invalid",
            "GIT_COMMITTER_NAME": "test", "GIT_COMMITTER_EMAIL": "test@example.invalid"}

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=self.folder, env=self.environment | environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1100)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
        return done

    def nfk(self, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "nfk", *arguments, **options)

    def write_params(self, text: str) -> None:
        (self.folder / "params.yaml").write_text(text)


@pytest.fixture(scope="session")
def project(request) -> Path:
    return request.config.rootpath


def make_clone(project: Path, folder: Path) -> Workspace:
    """The tracked files and those git does not ignore, committed in a new repository."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=project,
                            check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (project / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    workspace = Workspace(folder)
    workspace.write_params(SMALL)
    workspace.run("git", "init", "--quiet")
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", "--message", "clone")
    return workspace


@pytest.fixture(scope="module")
def clone(project, tmp_path_factory) -> Workspace:
    return make_clone(project, tmp_path_factory.mktemp("clone") / "nfk")


@pytest.fixture(scope="module")
def tiny(clone, project, tmp_path_factory) -> Workspace:
    """The clone with TINY, and all its results in DVC's cache: a stage that another test changes runs, the rest do not.

    Made once for all workers of a run, by the first that needs it.
    """
    made = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) / "tiny"
    with durable.lock_file(made.with_suffix(".lock")) as lock:
        durable.hold(lock.fileno(), wait=True)
        if not made.exists():
            workspace = make_clone(project, tmp_path_factory.mktemp("tiny") / "nfk")
            workspace.write_params(TINY)
            workspace.nfk("repro")
            shutil.move(workspace.folder / ".dvc/cache", made)
    shutil.copytree(made, clone.folder / ".dvc/cache")
    clone.write_params(TINY)
    clone.run("git", "commit", "--quiet", "--all", "--message", "tiny")
    return clone
