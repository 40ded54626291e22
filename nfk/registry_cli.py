"""`nfk registry ...`: embedders and embeddings by name, alias and version."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from nfk import completion

if TYPE_CHECKING:
    from nfk.registry import Entry

registry_app = typer.Typer(no_args_is_help=True,
                           help="Embedders and embeddings, as NAME@ALIAS or NAME/VERSION.")
Reference = Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION, such as nfk-gan-embedder@champion",
                                          autocompletion=completion.references)]


@registry_app.command("register")
def register(family: Annotated[str, typer.Argument(help="a family of params.yaml, such as gan",
                                                     autocompletion=completion.families)]) -> None:
    """Make versions of a family's embedder and embeddings.

    They are called candidate; what is registered already stays the version it is."""
    from nfk.params import load
    from nfk.stages import register as stage

    for entry in stage.run(load(), family):
        print(_line(entry))


@registry_app.command("list")
def listing() -> None:
    """Every version of every registered embedder and embedding set."""
    from nfk import registry
    from nfk.params import load

    with registry.connect(load().tracking) as client:
        found = registry.entries(client)
    if not found:
        print("nothing is registered; `nfk registry register FAMILY` registers what the workspace holds")
    for entry in found:
        print(_line(entry))


@registry_app.command("show")
def show(reference: Reference) -> None:
    """All that one version leads back to."""
    from nfk import registry
    from nfk.params import load

    with registry.connect(load().tracking) as client:
        entry = registry.find(client, reference)
    print(_line(entry))
    print(f"  run {entry.run_id}")
    for key, value in sorted(entry.tags.items()):
        print(f"  {key} {value}")


@registry_app.command("diff")
def diff(first: Reference, second: Reference) -> None:
    """What differs between two versions."""
    from nfk import registry
    from nfk.params import load
    from nfk.registry.entries import differences

    with registry.connect(load().tracking) as client:
        one, other = registry.find(client, first), registry.find(client, second)
    for key, before, after in differences(one.tags, other.tags):
        print(f"{key}\n  {one.reference}  {before}\n  {other.reference}  {after}")


@registry_app.command("promote")
def promote(
    reference: Reference,
    or_keep: Annotated[bool, typer.Option("--or-keep", help="not good enough is no failure")] = False,
    force: Annotated[bool, typer.Option("--force", help="by your own judgement, past the gate")] = False,
) -> None:
    """Make a candidate the champion, if it passes the gate.

    The gate is the section `registry` of params.yaml."""
    from nfk import registry
    from nfk.params import load

    params = load()
    with registry.connect(params.tracking) as client:
        try:
            champion, former = registry.promote(client, reference, gain=params.registry.gain, force=force)
        except registry.NotGoodEnough as verdict:
            if not or_keep:
                raise
            print(verdict)
            return
    if former is not None and former.version != champion.version:
        print(f"before: {_line(former)}")
    print(_line(champion))


@registry_app.command("rollback")
def rollback(name: Annotated[str, typer.Argument(help="a registered embedder, such as nfk-gan-embedder")]) -> None:
    """Make the champion before this one champion again."""
    from nfk import registry
    from nfk.params import load

    with registry.connect(load().tracking) as client:
        restored, former = registry.rollback(client, name)
    print(f"before: {_line(former)}\n{_line(restored)}")


@registry_app.command("rebuild")
def rebuild(
    reference: Reference,
    remote: Annotated[str | None, typer.Option(help="repository to clone; none: this one")] = None,
) -> None:
    """Remake a version in a clone, and compare the digests.

    From its commit, params.yaml and dvc.lock."""
    from nfk import registry
    from nfk.params import load
    from nfk.stages import rebuild as remaking

    with registry.connect(load().tracking) as client:
        for line in remaking.rebuild(client, reference, repository=remote):
            print(line)


def _line(entry: Entry) -> str:
    aliases = "".join(f" @{alias}" for alias in entry.aliases)
    metric = "" if entry.metric is None else f"  {entry.tags['gate.metric']} {entry.metric:.4f}"
    commit = entry.tags.get("git.commit", "no commit")[:10]
    commit += " + changes" if entry.tags.get("git.dirty") == "true" else ""
    when = datetime.fromtimestamp(entry.created / 1000, UTC)
    return f"{entry.reference}{aliases}{metric}  {commit}  {when:%Y-%m-%d %H:%M}Z"
