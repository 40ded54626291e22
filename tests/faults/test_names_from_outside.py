"""Names that lead elsewhere, 1,000 of them, at every place where a name becomes a path or a registry's key."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import socket
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flows.experiment_spec import ExperimentError
from flows.experiment_spec import load as load_experiment
from flows.pipeline import PipelineOptions
from flows.refresh import RefreshOptions
from flows.sweep import SweepOptions
from nfk import params, registry, store
from nfk.data.image_set import DataError
from nfk.data.read import read
from nfk.models import checkpoint
from nfk.registry.entries import Entry
from nfk.service import images as requests
from nfk.service.application import application
from nfk.service.gate import Limits
from nfk.service.remote import Remote
from nfk.stages import atlas, rebuild, register, registered, runner
from nfk.tracking import pipeline_run, spool
from nfk.tracking.record import PipelineRecord
from tests.faults.fuzz_guard import files_below
from tests.service.load import png

_UP = ("../", "..\\", "..//", "./../", "a/../../", "..%2f", "..%5c", "%2e%2e/", "..\0/", "..;/",
       "..／", "․․/", "....//",
       "..\n/", " ../", "../ ", ".. /", "a\\..\\..\\", "..%c0%af", "..%252f")
_FROM = ("/", "//", "\\\\host\\", "C:\\", "C:/", "file:///", "~/", "~root/", "$HOME/", "/proc/self/root/",
         "\\\\?\\C:\\",
         "-", "--output=/", "|", ";", "`", "\0", "\n", "s3://", "dbfs:/", "models:/", "runs:/", "http://h/",
         "' OR '1'='1")
_TO = ("etc/passwd", "x", "x.zarr", "x\0.zarr", ".git/config", "", ".", "..", "NUL", "a" * 300, "x/", "é", "$(touch x)")


def variants() -> list[str]:
    """1,000 names, none of which is a name of ours."""
    made = dict.fromkeys(
        start * times + end for start, times, end in itertools.product(_UP, (1, 2, 5), _TO))
    made |= dict.fromkeys(start + middle + end for start, middle, end in itertools.product(_FROM, ("", "../"), _TO))
    others = [name for name in made if not name.isidentifier() and set(name) != {"x"}]
    return [others[place * len(others) // 1000] for place in range(1000)]  # some of each kind


VARIANTS = variants()
FAMILIES = {"gan": {"model": "dcgan"}}


def test_there_are_as_many_as_are_told():
    assert len(set(VARIANTS)) == len(VARIANTS) == 1000
    for start in (*_UP, *_FROM):
        assert sum(name.startswith(start) for name in VARIANTS) >= 10, start
    for end in _TO:
        assert sum(name.endswith(end) for name in VARIANTS) >= 40, end


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A workspace; nothing may be made around it, nor, by a refusal, in it."""
    around = tmp_path / "a/b/c/d/e/f/g"
    workspace = around / "workspace"
    workspace.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    before = files_below(tmp_path)
    yield workspace
    made = {name for name in files_below(tmp_path) - before
            if not Path(tmp_path, name).is_relative_to(workspace)}
    assert made == set()


def test_parameters(inside):
    for name in VARIANTS:
        for content in ({"families": {name: {"model": "dcgan"}}}, {"families": {"gan": {"model": name}}},
                        {"families": FAMILIES, "data": {"name": name}},
                        {"families": FAMILIES, "theta": {name: {}}},
                        {"families": FAMILIES, "studies": {name: {"study": "noise", "family": "gan"}}}):
            with pytest.raises(params.ParamsError):
                params.parse(content)
    assert list(inside.iterdir()) == []


def never(*arguments: object) -> object:
    raise AssertionError(f"asked of {arguments}")


def test_stages_of_a_family_or_study(inside, monkeypatch):
    settings = params.parse({"families": FAMILIES})
    monkeypatch.setattr(runner, "load", lambda: settings)  # reading the file each time is what would take long
    monkeypatch.setattr(runner.depended, "seen", never)  # it follows dvc.yaml to every file below models/NAME
    for name in VARIANTS:
        for stage in ("pretrain", "statistics", "svd", "embed", "evaluate", "study"):
            with pytest.raises(params.ParamsError):
                runner.run(stage, name)
        for run in (lambda name: atlas.run(settings, name, Path("page.html"), 20),
                    lambda name: register.run(settings, name)):
            with pytest.raises(params.ParamsError):
                run(name)
    assert list(inside.iterdir()) == []


class NoClient:
    """A registry that must not be asked."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the registry was asked: {name}")


def test_registered_names(inside):
    for name in VARIANTS:
        for reference in (name, f"{name}@champion", f"nfk-{name}-embedder", f"nfk-{name}-embeddings@champion",
                          f"nfk-gan-embedder/{name}", f"nfk-gan-embedder@{name}"):
            with pytest.raises(registry.RegistryError) as refusal:
                registry.find(NoClient(), reference)
            assert str(refusal.value).isprintable()
        with pytest.raises(registry.RegistryError):
            registry.rollback(NoClient(), name)


def test_what_is_served(inside, monkeypatch):
    """`nfk serve` and `nfk embed --model`: a folder that is there, or a name of the registry."""
    from contextlib import nullcontext

    monkeypatch.setattr(registry, "connect", lambda *_: nullcontext(NoClient()))
    settings = params.parse({"families": FAMILIES})
    for name in VARIANTS:
        with pytest.raises((registry.RegistryError, OSError)), registered.opened(settings, name):  # OSError: too long
            pass


def test_files_that_a_version_brings_along(inside):
    """One whose name is a file's own is not there, and so not what was registered."""
    (inside / "files").mkdir()
    empty = store.tree_digest(inside / "files")
    for name in VARIANTS:
        entry = Entry("nfk-gan-embedder", "1", (), {"digest.embedder": empty, f"digest.code.{name}": "0"}, "", 0)
        with pytest.raises(registry.RegistryError,
                           match="names no file of its own" if "/" in name else "was registered"):
            registered.check(entry, inside / "files", inside / "code")


def test_what_a_version_is_rebuilt_from(inside):
    entry = Entry("nfk-gan-embedder", "1", (), {}, "", 0)
    for name in VARIANTS:
        for tags in ({"git.commit": name, "family": "gan"}, {"git.commit": "0" * 40, "family": name}):
            tagged = Entry(**{**entry.__dict__, "tags": tags})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(registry, "find", lambda *_, tagged=tagged: tagged)
                with pytest.raises(registry.RegistryError, match="not those of a registration"):
                    next(rebuild.rebuild(NoClient(), "nfk-gan-embedder/1"))


def test_experiments_and_sweeps(inside):
    for name in VARIANTS:
        with pytest.raises(ExperimentError):
            load_experiment(name)
        for options in ({"families": (name,)}, {"data": (name,)}, {"data": (f"{name}=x",)}):
            with pytest.raises(ValueError):
                SweepOptions(**options)
        for kind, options in ((PipelineOptions, {"families": (name,)}), (RefreshOptions, {"families": (name,)}),
                              (RefreshOptions, {"branch": name}), (RefreshOptions, {"branch": f"runs/{name}"})):
            with pytest.raises(ValueError):
                kind(**options)


def test_a_pipeline_run_named_from_outside(inside, monkeypatch):
    # what takes long and is no door: to wait for the disk, and to look through the environment for secrets
    monkeypatch.setattr("nfk.durable.Disk.sync", lambda *_: None)
    monkeypatch.setattr("nfk.tracking.redaction._secrets_of_the_environment", list)
    for name in VARIANTS:
        monkeypatch.setenv(pipeline_run.ENVIRONMENT_VARIABLE, name.replace("\0", "0"))  # none has a NUL
        if not name.strip():  # as if it were not set
            assert pipeline_run.pipeline_run_id() is None
            continue
        entry = spool.add(PipelineRecord(pipeline_run=pipeline_run.pipeline_run_id()))
        assert entry.resolve().parent == (inside / spool.SPOOL).resolve()
        assert spool.read(entry).pipeline_run
        spool.remove(entry)
    assert files_below(inside) <= {".nfk", ".nfk/spool"}


def _zip(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        archive.writestr(entry, b"x")


def _tar(path: Path, name: str) -> None:
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))


@pytest.mark.parametrize(("write", "file"), [(_zip, "set.zip"), (_zip, "set.npz"), (_tar, "set.tar")])
def test_members_of_archives(inside, write, file):
    """None is an image: whichever name is let pass, its bytes are refused; nothing is ever unpacked to a file."""
    tried = 0
    for name in VARIANTS:
        try:
            write(inside / file, name)
        except (UnicodeError, ValueError, OSError):
            continue
        with pytest.raises(DataError) as refusal:
            read(str(inside / file))
        assert str(refusal.value).isprintable()
        tried += 1
    assert tried == 1000, tried
    assert [path.name for path in inside.iterdir()] == [file]


def test_files_and_arrays_of_a_store(inside):
    """The manifest's own digest is right each time: whoever sends a store can write it anew."""
    with store.write("sent.zarr", inputs={}) as writer:
        writer.put("a", np.zeros(2))
    marker = inside / "sent.zarr" / store.MARKER
    manifest = json.loads(marker.read_text())
    for name in VARIANTS:
        for part in ("files", "arrays"):
            changed = manifest | {part: manifest[part] | {name: next(iter(manifest[part].values()))}}
            del changed["digest"]
            marker.write_text(json.dumps(changed | {"digest": store.json_digest(changed)}))
            with pytest.raises(store.StoreError) as refusal:
                store.read("sent.zarr")
            assert str(refusal.value).isprintable()


def test_what_a_card_names(inside):
    card = {"config": {}, "image_shape": [2, 2, 1], "classes": 2, "parameters": 1, "sha256": "0" * 64}
    for name in VARIANTS:
        (inside / checkpoint.CARD).write_text(json.dumps(card | {"model": name}))
        with pytest.raises(checkpoint.ModelError, match="names the code" if ":" in name else "unknown model"):
            checkpoint.load(inside)


def test_files_of_a_request(inside):
    """A name is told back, and is no path."""
    picture = png(np.zeros((2, 2, 1), np.uint8))
    for name in VARIANTS:
        words = name.encode("unicode_escape").replace(b'"', b"'")  # a header's line has no other letters
        for disposition in (b'name="f"; filename="%s"' % words, b'name="%s"; filename=""' % words):
            form = (b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n--b--\r\n" % (disposition, picture))
            given = requests.read(form, "multipart/form-data; boundary=b", (2, 2, 1))
            assert given.images.shape == (1, 2, 2, 1)
            assert len(given.names) == 1


def test_addresses_of_the_service(inside):
    ours, theirs = socket.socketpair()
    unasked = Remote(ours, {"version": "1", "rank": 4, "index": None}, "nfk-gan-embedder/1")  # not begun: none can ask
    service = application(unasked, Limits(), token=None, hosts=("127.0.0.1",))

    async def status(method: str, path: str, host: str) -> int:
        sent = []

        async def receive() -> dict:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict) -> None:
            sent.append(message)

        await service({"type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": b"",
                       "root_path": "", "scheme": "http", "query_string": b"", "server": ("127.0.0.1", 1),
                       "client": ("127.0.0.1", 2), "headers": [(b"host", host.encode())]}, receive, send)
        return sent[0]["status"]

    async def all_of_them() -> None:
        assert await status("GET", "/health", "127.0.0.1") == 200
        for name in VARIANTS:
            for method in ("GET", "POST"):
                assert await status(method, f"/{name}", "127.0.0.1") == 404
            assert await status("GET", "/health", name) == 403

    with ours, theirs:
        asyncio.run(all_of_them())
