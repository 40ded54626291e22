"""Names that lead elsewhere, 1,000 of them, at every place where a name becomes a path or a registry's key."""

from __future__ import annotations

import ast
import io
import itertools
import tarfile
import zipfile
from pathlib import Path

import pytest

from flows.experiment_spec import ExperimentError
from flows.experiment_spec import load as load_experiment
from flows.sweep import SweepOptions
from nfk import params, registry
from nfk.data.image_set import DataError
from nfk.data.read import read
from nfk.registry.entries import Entry, names_of
from nfk.stages import registered, runner
from nfk.tracking import pipeline_run, spool
from nfk.tracking.record import PipelineRecord
from tests.faults.fuzz_guard import files_below

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
    return [name for name in made if not name.isidentifier() and set(name) != {"x"}][:1000]


VARIANTS = variants()
FAMILIES = {"gan": {"model": "dcgan"}}


def test_there_are_as_many_as_are_told():
    assert len(set(VARIANTS)) == len(VARIANTS) == 1000


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
        for content in ({"families": {name: {"model": "dcgan"}}}, {"families": FAMILIES, "data": {"name": name}},
                        {"families": FAMILIES, "theta": {name: {}}},
                        {"families": FAMILIES, "studies": {name: {"study": "noise", "family": "gan"}}}):
            with pytest.raises(params.ParamsError):
                params.parse(content)
    assert list(inside.iterdir()) == []


def test_stages_of_a_family_or_study(inside):
    (inside / "params.yaml").write_text("families: {gan: {model: dcgan}}\n")
    settings = params.load()
    for name in VARIANTS:
        for of in (settings.family, settings.study):
            with pytest.raises(params.ParamsError):
                of(name)
    for name in VARIANTS[::20]:  # the file is read each time
        for stage in ("pretrain", "statistics", "svd", "embed", "evaluate", "study"):
            with pytest.raises(params.ParamsError):
                runner.run(stage, name)
    assert [path.name for path in inside.iterdir()] == ["params.yaml"]


class NoClient:
    """A registry that must not be asked."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the registry was asked: {name}")


def test_registered_names(inside):
    for name in VARIANTS:
        for reference in (name, f"{name}@champion", f"nfk-{name}-embedder", f"nfk-{name}-embeddings@champion",
                          f"nfk-gan-embedder/{name}"):
            with pytest.raises(registry.RegistryError) as refusal:
                # an alias is the registry's own; a version must be a number
                if reference.startswith("nfk-gan"):
                    registry.resolve(reference) if "@" not in reference else names_of(reference)
                else:
                    registry.find(NoClient(), reference)
            assert str(refusal.value).isprintable()


def test_what_is_served(inside, monkeypatch):
    """`nfk serve` and `nfk embed --model`: a folder that is there, or a name of the registry."""
    from contextlib import nullcontext

    monkeypatch.setattr(registry, "connect", lambda *_: nullcontext(NoClient()))
    settings = params.parse({"families": FAMILIES})
    for name in VARIANTS[::5]:  # each makes a folder for what might be fetched
        with pytest.raises((registry.RegistryError, OSError)), registered.opened(settings, name):  # OSError: too long
            pass


def test_files_that_a_version_brings_along(inside):
    (inside / "files").mkdir()
    for name in VARIANTS:
        if "/" in name or name in ("", "..", "."):
            entry = Entry("nfk-gan-embedder", "1", (), {"digest.embedder": "0", f"digest.code.{name}": "0"}, "", 0)
            with pytest.raises(registry.RegistryError, match="names no file of its own"):
                registered.check(entry, inside / "files", inside / "code")


def test_what_a_version_is_rebuilt_from(inside):
    from nfk.stages import rebuild

    class Client(NoClient):
        pass

    entry = Entry("nfk-gan-embedder", "1", (), {}, "", 0)
    for name in VARIANTS:
        for tags in ({"git.commit": name, "family": "gan"}, {"git.commit": "0" * 40, "family": name}):
            tagged = Entry(**{**entry.__dict__, "tags": tags})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(registry, "find", lambda *_, tagged=tagged: tagged)
                with pytest.raises(registry.RegistryError, match="not those of a registration"):
                    next(rebuild.rebuild(Client(), "nfk-gan-embedder/1"))


def test_experiments_and_sweeps(inside):
    for name in VARIANTS:
        with pytest.raises(ExperimentError):
            load_experiment(name)
        for options in ({"families": (name,)}, {"data": (name,)}, {"data": (f"{name}=x",)}):
            with pytest.raises(ValueError):
                SweepOptions(**options)


def test_a_pipeline_run_named_from_outside(inside, monkeypatch):
    for name in VARIANTS[::10]:  # each is written to disk
        given = name.replace("\0", "")
        if not given.strip():
            continue
        monkeypatch.setenv(pipeline_run.ENVIRONMENT_VARIABLE, given)
        entry = spool.add(PipelineRecord(pipeline_run=pipeline_run.pipeline_run_id()))
        assert entry.resolve().parent == (inside / spool.SPOOL).resolve()
        assert spool.read(entry).pipeline_run


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


@pytest.mark.parametrize(("write", "file"), [(_zip, "set.zip"), (_tar, "set.tar")])
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
    assert tried > 900
    assert [path.name for path in inside.iterdir()] == [file]


# --- what is on outside data nowhere in the product ---

_NAMES = {"eval", "exec", "compile", "__import__"}
_OF = {("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler"), ("marshal", "load"), ("marshal", "loads"),
       ("shelve", "open"), ("dill", "load"), ("dill", "loads"), ("cloudpickle", "load"), ("cloudpickle", "loads"),
       ("joblib", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("os", "system"),
       ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput"), ("torch", "load"),
       ("runpy", "run_path"), ("runpy", "run_module"), ("np", "load"), ("numpy", "load"), ("pd", "read_pickle"),
       ("tarfile", "extractall"), ("shutil", "unpack_archive"), ("io", "loadmat"), ("ctypes", "CDLL")}
_METHODS = {"extractall", "extract", "unpack_archive", "read_pickle", "loadmat"}
ALLOWED = {
    "nfk/data/cifar_python.py: class of Unpickler",  # answers four names by stand-ins, refuses all others
    "nfk/models/custom.py: import_module",  # a network of the user's own is code, and says so
    "nfk/stages/runner.py: import_module",  # of nfk.stages, by names of this program
    "nfk/stages/study.py: import_module",  # of nfk.studies, by names of this program
    "flows/sweep.py: load",  # ruamel's round trip, which makes plain values alone
    "flows/worker.py: run_module",  # Prefect's own command line
}


def dangers(source: str) -> list[str]:
    """Every call by which bytes could become code, a shell's line or a file anywhere."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            found += [f"class of {base.attr}" for base in node.bases
                      if isinstance(base, ast.Attribute) and base.attr.endswith("Unpickler")]
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        of = getattr(called.value, "id", "") if isinstance(called, ast.Attribute) else ""
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if ((not isinstance(called, ast.Attribute) and name in _NAMES) or (of, name) in _OF or name in _METHODS
                or name in ("import_module", "_make_unpickler")):
            found.append(name)
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if (keyword.arg in ("shell", "allow_pickle") and value is not False) or (
                    keyword.arg == "typ" and value not in ("safe", "rt")):
                found.append(f"{keyword.arg}={value}")
    return found


def test_no_outside_data_becomes_code_in_the_product():
    root = Path(__file__).parents[2]
    files = [file for folder in ("nfk", "flows") for file in sorted((root / folder).rglob("*.py"))]
    assert len(files) > 100
    found = {f"{file.relative_to(root)}: {danger}" for file in files
             for danger in dangers(file.read_text(encoding="utf-8"))}
    assert found - ALLOWED == set()
    assert ALLOWED - found == set()


@pytest.mark.parametrize("line", [
    "eval(text)", "exec(text)", "pickle.loads(body)", "yaml.load(file)", "subprocess.run(line, shell=True)",
    "os.system(line)", "os.popen(line)", "np.load(file)", "numpy.load(f, allow_pickle=True)", "archive.extractall(to)",
    "YAML(typ='unsafe')", "torch.load(f)", "joblib.load(f)", "importlib.import_module(name)", "__import__(name)",
    "class U(pickle.Unpickler): pass", "subprocess.Popen(line, shell=shell)", "io.loadmat(f)",
])
def test_each_of_them_is_seen(line):
    assert dangers(line)
