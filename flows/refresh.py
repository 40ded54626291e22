"""Scheduled: new data to a registered, gated embedder: `python -m flows.refresh`.

    data anew -> the pipeline -> every byte checked -> register as candidate -> promote through the gate -> push
    DVC's cache

The data stage always runs: it reads its source again, and where that gives the same bytes DVC repeats nothing after
it. A candidate that does not pass the gate is a normal end: the champion stays.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from typing import Annotated

import typer
from prefect import flow, get_run_logger, task
from prefect.artifacts import TableArtifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from pydantic import ConfigDict, Field, ValidationError

from flows.artifacts import publish
from flows.pipeline import FAILED, REFUSED, PipelineOptions, bring_up_to_date
from flows.plain_failures import WithoutTraceback
from flows.process_group import run_streamed
from nfk import params as parameters
from nfk.stages.every_byte import checked
from nfk.workspace_lock import WorkspaceBusy, workspace_lock

_STEP_SECONDS = 3600.0
# a commit of HEAD with today's dvc.lock, made aside: neither the branch checked out here nor its index moves
_PUSH_LOCK = """
export GIT_INDEX_FILE="$(mktemp -u)"
git read-tree HEAD && git add dvc.lock && tree="$(git write-tree)" &&
  commit="$(git -c user.name=nfk -c user.email=nfk@localhost commit-tree "$tree" -p HEAD -m "$1")" &&
  git push --quiet --force origin "$commit:refs/heads/$2"
status=$?
rm -f "$GIT_INDEX_FILE"
exit $status
"""


class StepFailed(RuntimeError):
    """A step around the pipeline ended with an error; the message has its last line."""


for _name in ("prefect.task_runs", "prefect.flow_runs"):
    logging.getLogger(_name).addFilter(WithoutTraceback(StepFailed))


class RefreshOptions(PipelineOptions):
    """What one refresh may be asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    promote: bool = Field(True, description="give each candidate its chance to become champion")
    check_bytes: bool = Field(True, description="hold every byte of the stores and of DVC's cache against its digest "
                              "before anything is registered or pushed")
    push: bool = Field(True, description="push DVC's cache to the default remote, where there is one")
    branch: Annotated[str, Field(pattern=r"^(runs/\w[\w-]*([./]\w[\w-]*)*)?$")] = Field(
        "", description="commit dvc.lock and force it onto this branch of origin, one below runs/; empty: do not")


@flow(name="nfk-refresh")
def refresh(options: RefreshOptions = RefreshOptions()) -> None:  # noqa: B008 - frozen
    """Everything up to date from the data on, registered and judged; the first step that fails ends the run."""
    params = _load_params()
    asked = options.model_dump(include=set(PipelineOptions.model_fields))
    # held to the end: what is registered and pushed is what this run's stages made
    with workspace_lock() as lock:
        bring_up_to_date(PipelineOptions(**asked | {"always": ("data", *options.always)}))
        _publish(options, options.families or tuple(params.families), lock)


def _publish(options: RefreshOptions, families: Collection[str], lock: int) -> None:
    """Register and judge each family's candidate, then push what was made."""
    def step(name: str, *command: str) -> str:
        return run_step.with_options(task_run_name=name)(list(command), held=(lock,))

    if options.check_bytes:
        check_bytes.with_options(task_run_name="check every byte")()
    rows = []
    for family in families:
        step(f"register {family}", "nfk", "registry", "register", family)
        verdict = "registered"
        if options.promote:
            verdict = step(f"promote {family}", "nfk", "registry", "promote", f"nfk-{family}-embedder@candidate",
                           "--or-keep")
        rows.append({"family": family, "verdict": verdict})
    publish(TableArtifact(key="nfk-registry", table=rows, description="What became of each candidate"))
    if options.push and _has_remote():
        # the cache before the lock: a lock must never name what nobody can pull
        step("push", "dvc", "push")
    if options.branch:
        step("push lock", "sh", "-c", _PUSH_LOCK, "sh", f"refresh: {flow_run.name}", options.branch)


@task(cache_policy=NO_CACHE)
def check_bytes() -> None:
    """StepFailed for the first file that is not as it was written."""
    for part in checked(parameters.load()):
        get_run_logger().info(part.found)
        if part.remedy:
            raise StepFailed(f"{part.found}; {part.remedy}")


@task(cache_policy=NO_CACHE)
def run_step(command: list[str], *, held: Collection[int] = ()) -> str:
    """One command, its lines in the log; the last of them. StepFailed where it fails, with that line, or with the last
    that is called an error: after an unexpected one DVC says where to ask for help."""
    said, errors = " ".join(command[-4:]), []

    def say(line: str) -> None:
        get_run_logger().info(line)
        if line.startswith("ERROR: "):
            errors.append(line.removeprefix("ERROR: "))

    if command[0] in ("nfk", "dvc"):
        command = [sys.executable, "-m", *command]
    ended = run_streamed(command, say, seconds=_STEP_SECONDS, held=held)
    if ended.timed_out or ended.status != 0:
        why = f"took more than {_STEP_SECONDS:g} s" if ended.timed_out else (errors or [ended.last_line])[-1]
        raise StepFailed(f"`{said}` failed: {why}")
    return ended.last_line


def _load_params() -> parameters.Params:
    """ParamsError where what would be registered would not be judged."""
    params = parameters.load()
    if params.svd.rank not in params.evaluate.ranks:
        raise parameters.ParamsError(
            f"svd.rank={params.svd.rank}: not among evaluate.ranks={list(params.evaluate.ranks)}, and a candidate is "
            f"judged by its vectors of all components; add {params.svd.rank} there")
    return params


def _has_remote() -> bool:
    from dvc.repo import Repo

    with Repo() as repo:
        return bool(repo.config["core"].get("remote"))


def _main(
    family: Annotated[list[str] | None, typer.Option(help="refresh only this family; repeatable")] = None,
    promote: Annotated[bool, typer.Option(help="give each candidate its chance to become champion")] = True,
    push: Annotated[bool, typer.Option(help="push DVC's cache to the default remote")] = True,
    branch: Annotated[str, typer.Option(help="branch of origin that gets dvc.lock, such as runs/nightly")] = "",
) -> None:
    """Refresh under Prefect."""
    try:
        _load_params()  # what the flow would refuse is refused before a server is started for it
        refresh(RefreshOptions(families=tuple(family or ()), promote=promote, push=push, branch=branch))
    except ValidationError as error:
        fault = error.errors()[0]
        print(f"--{fault['loc'][0]} {fault['input']!r}: {fault['msg']}", file=sys.stderr)
        raise typer.Exit(REFUSED) from None
    except (parameters.ParamsError, WorkspaceBusy) as error:
        print(str(error), file=sys.stderr)
        raise typer.Exit(REFUSED) from None
    except RuntimeError as error:
        print(str(error), file=sys.stderr)
        raise typer.Exit(FAILED) from None


if __name__ == "__main__":
    typer.run(_main)
