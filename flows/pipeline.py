"""The pipeline as a Prefect flow: `python -m flows.pipeline [--family gan ...] [--force]`.

The flow decides when and where, and what happens on failure. DVC decides what is out of date and in which
order. Without PREFECT_API_URL an ephemeral server is started for the run.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer
from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.dvc_stage import StageFailed, run_stage
from flows.plain_failures import WithoutTraceback
from flows.results import publish_figures, publish_lineage, publish_metrics
from flows.stage_order import stage_order
from nfk import params as parameters
from nfk import tracking
from nfk.stages.changed import changed_modules
from nfk.workspace_lock import WorkspaceBusy, workspace_lock

FAILED, REFUSED, UNTRACKED = 1, 2, 3  # exit statuses; the last: results are whole, but records wait

_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
for _name in ("prefect.task_runs", "prefect.flow_runs"):
    logging.getLogger(_name).addFilter(
        WithoutTraceback(StageFailed, WorkspaceBusy, parameters.ParamsError))


class PipelineOptions(BaseModel):
    """What one run of the flow may be asked for; what is computed is in params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    families: tuple[parameters.Name, ...] = Field((), description="families to bring up to date; none: the "
                                                  "whole pipeline")
    force: bool = Field(False, description="run stages that are up to date as well")
    always: tuple[str, ...] = Field((), description="stages to run even where they are up to date, such as data, "
                                    "whose source may have changed")
    retries: Annotated[int, Field(ge=0, le=10)] = Field(0, description="further tries of a failed stage; a "
                                                        "stage continues from its last whole block")
    retry_delay_seconds: Annotated[float, Field(ge=0)] = 10.0
    stage_seconds: Annotated[float, Field(gt=0)] = Field(86_400.0, description="longest time for one stage")


@flow(name="nfk-pipeline")
def pipeline(options: PipelineOptions = PipelineOptions()) -> None:  # noqa: B008 - frozen
    """Bring every stage up to date, in DVC's order; the first that fails ends the run as failed."""
    bring_up_to_date(options)


def bring_up_to_date(options: PipelineOptions) -> None:
    """The stages as tasks of the run that is going on, and what they made shown there.

    Another flow calls this, not `pipeline`: a run of its own would be made anew at each try of the one around it, and
    where the answer to its making is lost, a second one that nobody ever starts.
    """
    params = _load_params(options)
    with workspace_lock() as lock:
        stages = stage_order(families=options.families)
        pipeline_run = f"prefect-{flow_run.id}"
        task = run_stage.with_options(retries=options.retries,
                                      retry_delay_seconds=options.retry_delay_seconds)
        started = datetime.now(UTC)
        status: tracking.Status = "KILLED"
        try:
            for stage in stages:
                run = partial(task, stage, seconds=options.stage_seconds, held=(lock,), tracker=params.tracking,
                              environment={tracking.ENVIRONMENT_VARIABLE: pipeline_run})
                run(force=options.force or stage in options.always)
                # now that DVC has made the network, or brought one back: is it that of today's module?
                if stage in {f"pretrain@{family}" for family in changed_modules(params)}:
                    run(force=True)
            publish_metrics()
            publish_figures()
            publish_lineage(pipeline_run, stages)
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            tracking.finish(
                pipeline_run, params.tracking, status=status, started=started,
                tags={"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_name": flow_run.name})
            if tracking.pending():
                get_run_logger().warning(
                    "records that wait for the tracker: %d; `nfk track replay` sends them",
                    tracking.pending())


@_app.command()
def _run(
    family: Annotated[list[str] | None,
                      typer.Option(help="bring only this family up to date; repeatable")] = None,
    force: Annotated[bool, typer.Option("--force", help="run stages that are up to date as well")] = False,
    retries: Annotated[int, typer.Option(help="further tries of a failed stage")] = 0,
) -> None:
    """Run the pipeline under Prefect."""
    try:
        options = PipelineOptions(families=tuple(family or ()), force=force, retries=retries)
        _load_params(options)  # what the flow would refuse is refused before a server is started for it
        with workspace_lock():
            pass
        pipeline(options)
    except ValidationError as error:
        _end("; ".join(f"{'.'.join(map(str, fault['loc']))}={fault['input']!r}: {fault['msg']}"
                       for fault in error.errors()), REFUSED)
    except (parameters.ParamsError, WorkspaceBusy) as error:
        _end(str(error), REFUSED)
    except StageFailed as error:
        _end(str(error), FAILED)
    if tracking.pending():
        raise typer.Exit(UNTRACKED)


def _load_params(options: PipelineOptions) -> parameters.Params:
    params = parameters.load()
    for family in options.families:
        params.family(family)
    return params


def _end(message: str, status: int) -> None:
    print(message, file=sys.stderr)
    raise typer.Exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Run the pipeline under Prefect as the command line `arguments` (None: this process's own) ask; the exit
    status."""
    try:
        _app(args=arguments, prog_name="python -m flows.pipeline")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
