"""An embedder is held against what the registry recorded before anything of it is loaded."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import nullcontext

import pytest

from nfk import embedder, registry
from nfk.family_params import CustomParams, MlpParams
from nfk.models.checkpoint import ModelError
from nfk.params import parse
from nfk.registry import Entry, RegistryError
from nfk.stages import register
from nfk.stages.registered import check, code_tags, opened
from nfk.stages.workspace import LOCKS
from nfk.workspace_lock import cut_off
from tests.service.small_embedder import write


def entry(tags):
    return Entry("nfk-gan-embedder", "3", (), tags, "run", 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write(tmp_path_factory.mktemp("made"), config=MlpParams(hidden=2), shape=(2, 2, 1), rank=2)


@pytest.fixture
def files(made, tmp_path):
    return shutil.copytree(made, tmp_path / made.name)


@pytest.fixture
def code(tmp_path):
    package = tmp_path / "code" / "mine"
    (package / "part").mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    (package / "part" / "net.py").write_text("y = 2\n")
    return package


def test_what_was_registered_passes(files, code):
    check(entry({"digest.embedder": embedder.digest(files), **code_tags((code,))}), files, code.parent)


def test_one_byte_of_any_file_is_seen(files, code):
    tags = entry({"digest.embedder": embedder.digest(files)})
    for path in sorted(file for file in files.rglob("*") if file.is_file()):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(RegistryError, match=r"nfk-gan-embedder/3: digest\.embedder is \w{12}, \w{12} was regist"):
            check(tags, files, code.parent)
        path.write_bytes(content)
    (files / "more").touch()
    with pytest.raises(RegistryError):
        check(tags, files, code.parent)


@pytest.mark.parametrize("spoil", [
    lambda code: (code / "part" / "net.py").write_text("y = 3\n"),
    lambda code: (code / "more.py").touch(),
    lambda code: (code / "__pycache__").mkdir() or (code / "__pycache__" / "net.pyc").touch(),
    lambda code: (code / "part" / "net.py").unlink(),
])
def test_so_is_any_change_of_the_user_s_module(files, code, spoil):
    tags = entry({"digest.embedder": embedder.digest(files), **code_tags((code,))})
    spoil(code)
    with pytest.raises(RegistryError, match=r"digest\.code\.mine is \w{12}"):
        check(tags, files, code.parent)


def test_a_version_without_a_recorded_digest_is_refused(files, code):
    with pytest.raises(RegistryError, match=r"no tag digest\.embedder to hold its files against; register it again"):
        check(entry({}), files, code.parent)


def test_a_folder_s_code_is_that_of_params_yaml_or_none(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unbidden.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    card = files / "model" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"model": "unbidden:build", "config": {}}))
    refused = pytest.raises(ModelError, match=r"names the code unbidden:build")
    with refused, opened(None, str(files)):
        pass
    (tmp_path / "params.yaml").write_text("families: {mine: {model: 'my_nets:build'}}\n")
    with refused, opened(None, str(files)):
        pass
    assert not (tmp_path / "executed").exists()
    (tmp_path / "params.yaml").write_text("families: {mine: {model: 'unbidden:build'}}\n")
    with pytest.raises(ModelError, match="the file of unbidden:build is not the one"), opened(None, str(files)):
        pass
    assert (tmp_path / "executed").exists()


def test_a_registration_that_ended_does_not_pass_for_one_that_was_killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = entry({}), entry({})
    monkeypatch.setattr(register, "_run", lambda *_: pair)
    assert register.run(parse({"families": {"gan": {"model": "dcgan"}}}), "gan") == pair
    assert not cut_off(LOCKS / "register@gan.lock")
    assert (LOCKS / "register@gan.lock").exists()


def test_a_folder_is_opened_without_a_registry(files):
    with opened(None, str(files)) as found:
        assert (found.reference, found.digest) == ("small-embedder/local", embedder.digest(files))
        assert found.embedder.rank == 2


def test_a_module_of_one_file_is_held_by_its_bytes(files, tmp_path):
    (tmp_path / "net.py").write_text("x = 1\n")
    tags = entry({"digest.embedder": embedder.digest(files), **code_tags((tmp_path / "net.py",))})
    check(tags, files, tmp_path)
    (tmp_path / "net.py").write_text("x = 2\n")
    with pytest.raises(RegistryError, match=r"digest\.code\.net\.py is \w{12}"):
        check(tags, files, tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "../mine", "/mine", "mine/part"])
def test_a_tag_leads_to_nothing_but_a_file_of_its_own(files, code, name):
    with pytest.raises(RegistryError, match="names no file of its own"):
        check(entry({"digest.embedder": embedder.digest(files), f"digest.code.{name}": "0"}), files, code.parent)


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """Makes a registry that has one version: of these tags, with these files and this code."""
    def register(tags, files, code=None):
        def download(uri, dst_path):
            assert uri == "models:/nfk-gan-embedder/3"
            shutil.copytree(files, f"{dst_path}/bundle/artifacts/embedder")
            if code is not None:
                shutil.copytree(code, f"{dst_path}/bundle/code")
            return f"{dst_path}/bundle"

        monkeypatch.setattr(registry, "connect", lambda _: nullcontext())
        monkeypatch.setattr(registry, "find", lambda *_: entry(tags))
        monkeypatch.setattr("mlflow.artifacts.download_artifacts", download)

    monkeypatch.setattr(sys, "path", list(sys.path))
    return register


SETTINGS = parse({"families": {"gan": {"model": "dcgan"}}})


def test_one_of_the_registry_is_fetched_held_and_opened(files, registered):
    registered({"digest.embedder": embedder.digest(files), "git.commit": "0" * 40}, files)
    with opened(SETTINGS, "nfk-gan-embedder") as found:
        assert (found.reference, found.digest) == ("nfk-gan-embedder/3", embedder.digest(files))
        assert found.lineage["git.commit"] == "0" * 40
        assert found.embedder.rank == 2


def test_one_that_was_changed_in_the_registry_is_not_loaded(files, registered, monkeypatch):
    registered({"digest.embedder": embedder.digest(files)}, files)
    card = files / "model" / "card.json"
    card.write_text(card.read_text() + " ")
    monkeypatch.setattr("nfk.embedder.Embedder.load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(RegistryError, match="files were changed since; nothing of them was loaded"), opened(
            SETTINGS, "nfk-gan-embedder"):
        pass


NET = """\
import numpy as np


class Line:
    def __init__(self, weight):
        self.params = {"weight": weight}

    def log_density(self, params, x, key):
        return (params["weight"] * x.reshape(-1)).sum()

    def with_params(self, params):
        return Line(params["weight"])


def build(options, image_shape, classes):
    return Line(np.ones(4, np.float32))
"""


@pytest.mark.parametrize("vouched", [True, False])
def test_a_users_own_code_comes_along_where_its_tags_vouch_for_it(tmp_path, registered, monkeypatch, vouched):
    module = f"brought_{vouched}".lower()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{module}.py").write_text(NET)
    with monkeypatch.context() as here:
        here.syspath_prepend(tmp_path / "code")
        files = write(tmp_path / "made", config=CustomParams(model=f"{module}:build"), shape=(2, 2, 1), rank=2)
    del sys.modules[module]
    tags = {"digest.embedder": embedder.digest(files)}
    registered(tags | (code_tags((tmp_path / "code" / f"{module}.py",)) if vouched else {}), files, tmp_path / "code")
    monkeypatch.chdir(tmp_path)
    if vouched:
        with opened(SETTINGS, "nfk-gan-embedder") as found:
            assert found.embedder.image_shape == (2, 2, 1)
        assert "bundle/code" in sys.modules[module].__file__
    else:
        with pytest.raises(ModelError, match=f"names the code {module}:build"), opened(SETTINGS, "nfk-gan-embedder"):
            pass
        assert module not in sys.modules
