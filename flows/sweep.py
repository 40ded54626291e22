"""Families x ranks x data sets: `python -m flows.sweep --family gan --family vae --rank 32 --rank 128`.

Each combination runs in a workspace of its own, a clone of the committed project under `.nfk/sweep/` with the project's
DVC cache, and becomes a DVC experiment of the project (`dvc exp show`). A clone, and not `dvc exp run --queue` or
`--temp`, since those remove the folder of a run that failed or was killed, and with it the blocks it would go on from
and the records that wait for MLflow. What combinations share, such as a trained network, is made once and comes from
DVC's run cache.
"""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from prefect import flow, get_run_logger, task
from prefect.artifacts import TableArtifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.artifacts import publish
from flows.own_workspace import StagesFailed, WorkspaceRefused, committed, prepare, run_stages
from flows.pipeline import FAILED, REFUSED
from flows.plain_failures import WithoutTraceback
from flows.process_group import run_streamed
from flows.results import metric_rows
from nfk import durable
from nfk import params as parameters
from nfk.store import write_json
from nfk.workspace_lock import WorkspaceBusy, workspace_lock

WORKSPACES = Path(".nfk/sweep")
RESULTS = Path("sweep")
COLUMNS = ("data", "family", "rank", "features", "probe", "accuracy", "standard error", "state")


for _name in ("prefect.task_runs", "prefect.flow_runs"):
    logging.getLogger(_name).addFilter(WithoutTraceback(StagesFailed, WorkspaceRefused))


class SweepOptions(BaseModel):
    """What is combined; all else is in params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    families: tuple[parameters.Name, ...] = Field((), description="families of params.yaml; none: all")
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = Field((), description="values of svd.rank; none: that of "
                                                           "params.yaml")
    data: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}(=.+)?$")], ...] = Field(
        (), description="data sets: NAME, or NAME=SOURCE as data.source takes it; none: that of params.yaml")
    parallel: Annotated[int, Field(ge=1, le=64)] = Field(2, description="combinations at once")
    seconds: Annotated[float, Field(gt=0)] = Field(86_400.0, description="longest time for one combination")


class Combination(NamedTuple):
    data: str
    source: str
    family: str
    rank: int

    @property
    def name(self) -> str:
        return f"sweep-{self.data}-{self.family}-r{self.rank}".replace("_", "-")


@flow(name="nfk-sweep")
def sweep(options: SweepOptions = SweepOptions()) -> list[dict[str, Any]]:  # noqa: B008 - frozen
    """Run every combination, `parallel` at once; the rows of the table. Fails at the end where one failed."""
    commit, base = committed(), parameters.load()
    wanted = combinations(options, base)
    with workspace_lock(WORKSPACES.with_suffix(".lock")):
        failed = {name: str(fault) for name, fault in _all(wanted, commit, options) if fault is not None}
        rows = [row for combination in wanted for row in rows_of(combination, failed.get(combination.name))]
        write_tables(rows)
    shown = [row for row in rows if row["features"] in (None, f"nfk-{row['rank']}")]
    publish(TableArtifact(key="nfk-sweep", table=shown, description="Test accuracy of each combination"))
    if failed:
        raise StagesFailed(f"{len(failed)} of {len(wanted)} combinations failed: {', '.join(failed)}; the others "
                                f"are in {RESULTS}; the same command tries these again")
    return rows


def combinations(options: SweepOptions, base: parameters.Params) -> list[Combination]:
    """Ranks outermost: families run side by side, and a second rank finds the network its family trained."""
    for family in options.families:
        base.family(family)
    sets = [_data_set(text, base) for text in options.data] or [(base.data.name, base.data.source)]
    wanted = [Combination(name, source, family, rank) for rank in options.ranks or (base.svd.rank,)
              for name, source in sets for family in options.families or tuple(base.families)]
    return list(dict.fromkeys(wanted))


def _data_set(text: str, base: parameters.Params) -> tuple[str, str]:
    name, given, source = text.partition("=")
    if not given:
        return name, base.data.source if name == base.data.name else name
    return name, str(Path(source).resolve()) if Path(source).exists() else source


def _all(wanted: Iterable[Combination], commit: str, options: SweepOptions) -> Iterator[tuple[str, object]]:
    """Each combination's name and its fault or None, as they end; never more than `parallel` at once."""
    waiting, running = list(reversed(list(wanted))), dict[PrefectFuture[Any], str]()
    while waiting or running:
        while waiting and len(running) < options.parallel:
            combination = waiting.pop()
            task_run = run_combination.with_options(task_run_name=combination.name)
            running[task_run.submit(combination, commit, seconds=options.seconds)] = combination.name
        ended = next(iter(as_completed(list(running))))
        fault = ended.result(raise_on_failure=False)
        yield running.pop(ended), fault if isinstance(fault, BaseException) else None


@task(cache_policy=NO_CACHE)
def run_combination(combination: Combination, commit: str, *, seconds: float) -> None:
    """Make or bring up to date the combination's workspace, run its stages, keep the result as a DVC experiment."""
    say, combination = get_run_logger().info, Combination(*combination)
    folder = WORKSPACES / combination.name
    done = folder / ".nfk/done.json"
    text = params_text(combination)
    mark = {"commit": commit, "params": text}
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == mark:
        say(f"{combination.name}: is done, skipped")
        return
    prepare(folder, commit, text)
    run_stages(folder, say, seconds=seconds)
    save_experiment(folder, combination.name, say)
    write_json(done, mark)


def save_experiment(folder: Path, name: str, say: Callable[[str], None]) -> None:
    """What the workspace holds as the project's DVC experiment `name`; its outputs are in the project's cache."""
    for command in (("exp", "save", "--quiet", "--force", "--name", name),
                    ("exp", "push", "--quiet", "--force", "--no-cache", "origin", name)):
        ended = run_streamed([sys.executable, "-m", "dvc", *command], say, seconds=600.0, folder=folder)
        if ended.status != 0:
            raise StagesFailed(f"{name}: `dvc {command[0]} {command[1]}` failed: {ended.last_line}")


def params_text(combination: Combination, base: Path = parameters.PARAMS_FILE) -> str:
    """params.yaml of one combination: its family alone, its rank, its data set, all else as it is."""
    from ruamel.yaml import YAML

    yaml = YAML()
    content = yaml.load(base.read_text(encoding="utf-8"))
    content["families"] = {combination.family: content["families"][combination.family]}
    content["theta"] = {name: value for name, value in (content.get("theta") or {}).items()
                        if name == combination.family}
    content.setdefault("svd", {})["rank"] = combination.rank
    content.setdefault("data", {}).update(name=combination.data, source=combination.source)
    evaluate = content.setdefault("evaluate", {})
    kept = evaluate.get("ranks") or parameters.EvaluateParams().ranks
    evaluate["ranks"] = sorted({rank for rank in kept if rank < combination.rank} | {combination.rank})
    parameters.parse(json.loads(json.dumps(content)), source=combination.name)
    out = StringIO()
    yaml.dump(content, out)
    return out.getvalue()


def rows_of(combination: Combination, fault: str | None) -> list[dict[str, Any]]:
    """The combination's metrics, or the one row that says why there are none."""
    start = {"data": combination.data, "family": combination.family, "rank": combination.rank}
    if fault is not None:
        return [dict.fromkeys(COLUMNS) | start | {"state": fault}]
    return [start | row | {"state": "done"} for row in metric_rows(WORKSPACES / combination.name)]


def write_tables(rows: Sequence[Mapping[str, Any]]) -> None:
    """`sweep/results.json` and `sweep/results.csv`."""
    write_json(RESULTS / "results.json", rows)
    table = StringIO(newline="")
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    durable.write_whole(RESULTS / "results.csv", table.getvalue().encode())


def _main(
    family: Annotated[list[str] | None, typer.Option(help="a family of params.yaml; repeatable; none: all")] = None,
    rank: Annotated[list[int] | None, typer.Option(help="a value of svd.rank; repeatable")] = None,
    data: Annotated[list[str] | None, typer.Option(help="a data set, NAME or NAME=SOURCE; repeatable")] = None,
    parallel: Annotated[int, typer.Option(help="combinations at once")] = 2,
) -> None:
    """Run families x ranks x data sets under Prefect; what is done is skipped."""
    try:
        options = SweepOptions(families=tuple(family or ()), ranks=tuple(rank or ()), data=tuple(data or ()),
                               parallel=parallel)
        combinations(options, parameters.load())
        committed()
        sweep(options)
    except ValidationError as error:
        _end("; ".join(f"{'.'.join(map(str, fault['loc']))}={fault['input']!r}: {fault['msg']}"
                       for fault in error.errors()), REFUSED)
    except (parameters.ParamsError, WorkspaceRefused, WorkspaceBusy) as error:
        _end(str(error), REFUSED)
    except StagesFailed as error:
        _end(str(error), FAILED)
    print(RESULTS / "results.csv")


def _end(message: str, status: int) -> None:
    print(message, file=sys.stderr)
    raise typer.Exit(status)


if __name__ == "__main__":
    typer.run(_main)
