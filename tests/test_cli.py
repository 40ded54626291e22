"""The command line as people and their shells meet it: help, exit codes, modes, completion."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from nfk import cli, completion

# as the script `nfk` starts: its name is what the shell's completion goes by
COMMAND = (sys.executable, "-c", "import sys; sys.argv[0] = 'nfk'; from nfk.cli import main; main()")
FAMILIES = "families: {gan: {model: dcgan}, vae: {model: conv_vae}}\n"


def nfk(*arguments, folder, **environment):
    given = {key: value for key, value in os.environ.items() if key not in ("NFK_PROGRESS", "MLFLOW_TRACKING_URI")}
    return subprocess.run([*COMMAND, *arguments], cwd=folder, text=True, capture_output=True,
                          env=given | {"COLUMNS": "80"} | environment, timeout=600)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "params.yaml").write_text(FAMILIES)
    return tmp_path


@pytest.mark.parametrize("group", [(), ("registry",), ("track",)])
def test_no_command_s_one_line_is_cut(folder, group):
    shown = nfk(*group, "--help", folder=folder).stdout
    listed = shown.partition("Commands:")[2].partition("Exit codes:")[0].strip().splitlines()
    assert len(listed) >= 2
    for line in listed:
        assert re.fullmatch(r" *[a-z]+ +\S.*\.", line), line
        assert "..." not in line


def test_help_says_what_the_exit_codes_mean(folder):
    codes = re.findall(r"^    (\d+)  +\S", nfk("--help", folder=folder).stdout.partition("Exit codes:")[2], re.M)
    assert codes == ["0", "1", "2", "3", "4", "130"]


def test_an_error_tells_no_secret(folder):
    done = nfk("data", "--from", "s3://me:hunter22@host/x", "--to", "out.zarr", folder=folder, A_TOKEN="me-and-you")
    assert done.returncode == 2 and "s3:" in done.stderr and "hunter22" not in done.stderr, done.stderr
    done = nfk("data", "--from", "me-and-you", "--to", "out.zarr", folder=folder, A_TOKEN="me-and-you")
    assert done.returncode == 2 and "data.source='***': no such file" in done.stderr, done.stderr


def test_an_error_is_one_line_an_object_for_machines_and_a_trace_with_debug(folder):
    plain = nfk("svd", "gna", folder=folder)
    assert (plain.returncode, plain.stderr) == (
        2, "nfk: family 'gna' is not in params.yaml; there are gan, vae, did you mean 'gan'?\n")
    machine = nfk("--progress", "json", "svd", "gna", folder=folder)
    assert json.loads(machine.stderr) == {"error": plain.stderr[5:-1], "exit_code": 2}
    assert "Traceback" in nfk("svd", "gna", "--debug", folder=folder).stderr


@pytest.mark.parametrize(("arguments", "environment", "message"), [
    (("--quiet", "--progress", "json", "params"), {}, "--quiet and --progress json do not go together"),
    (("params",), {"NFK_PROGRESS": "loud"}, "NFK_PROGRESS=loud: must be auto, lines, json or none"),
])
def test_modes_that_are_none_are_refused_before_any_work(folder, arguments, environment, message):
    done = nfk(*arguments, folder=folder, **environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_json_reaches_a_long_job(folder):
    (folder / "params.yaml").write_text(f"{FAMILIES}data: {{train: 30, validation: 10, test: 10}}\n"
                                        "svd: {rank: 8}\nevaluate: {labels: [20], neighbours: [1]}\n")
    said = [json.loads(line) for line in nfk("--progress", "json", "data", folder=folder).stderr.splitlines()]
    assert {"title", "what", "done", "total", "unit", "rate", "seconds_left", "rss_bytes"} == said[0].keys()
    assert said[-1]["said"].startswith("50 images of 28 x 28 x 1")


# --- completion ---


def completed(folder, *words):
    """What Typer's bash function is told for the words of a command line, the last of them unfinished."""
    done = nfk(folder=folder, _NFK_COMPLETE="complete_bash",
               COMP_WORDS="\n".join(("nfk", *words)), COMP_CWORD=str(len(words)))
    return done.stdout.split()


@pytest.mark.parametrize("command", ["pretrain", "svd", "embed", "estimate", "atlas"])
def test_tab_offers_the_families_of_params_yaml(folder, command):
    assert completed(folder, command, "g") == ["gan"]


def test_tab_offers_stages_and_registered_embedders(folder):
    assert completion.stages("") == []
    shutil.copy(Path(__file__).parents[1] / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(f"{FAMILIES}studies: {{near: {{study: retrieval, family: gan}}}}\n")
    assert completion.stages("sv") == ["svd@gan", "svd@vae"]
    assert completion.stages("da") == ["data"]
    assert completion.stages("st") == ["statistics@gan", "statistics@vae", "study@near"]
    assert completed(folder, "study", "n") == ["near"]
    assert completion.embedders("") == []
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("create table registered_model_aliases (name text, alias text)")
        database.execute("create table model_versions (name text, version integer)")
        database.execute("insert into registered_model_aliases values ('nfk-gan-embedder', 'champion')")
        database.executemany("insert into model_versions values (?, ?)",
                             [("nfk-gan-embedder", 1), ("nfk-gan-embeddings", 1)])
    database.close()
    assert completion.embedders("") == ["nfk-gan-embedder/1", "nfk-gan-embedder@champion"]
    assert completion.references("nfk-gan-embeddings") == ["nfk-gan-embeddings/1"]


@pytest.mark.parametrize("text", ["", "families: [gan]\n", "families: {gan: {\n", "\0"])
def test_tab_in_a_folder_without_usable_params_offers_nothing(folder, text):
    (folder / "params.yaml").write_text(text)
    assert completion.families("") == []
    (folder / "params.yaml").unlink()
    assert completion.families("") == []


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4294967296 bytes.\nbuffers: ..."),
    RuntimeError("can't start new thread"),
])
def test_memory_that_the_system_refuses_is_told_in_one_line(monkeypatch, capsys, error):
    def fails():
        raise error

    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.delenv("NFK_PROGRESS", raising=False)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("nfk: not enough memory: ") and line.endswith("goes on from the last saved block")


def test_another_fault_of_the_program_keeps_its_trace(monkeypatch):
    def fails():
        raise RuntimeError("the matrix is singular")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(RuntimeError, match="singular"):
        cli.main()
