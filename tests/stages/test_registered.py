"""An embedder is held against what the registry recorded before anything of it is loaded."""

from __future__ import annotations

import json

import pytest

from nfk import embedder
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


@pytest.fixture
def files(tmp_path):
    return write(tmp_path)


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
        assert found.embedder.rank == 4
