"""What is on outside data nowhere in the product: no pickle, no eval, no unsafe YAML, no line for a shell.

Ruff's S rules (pyproject.toml) see the plain forms in every file; this sees them by whichever name they were imported,
called or handed on, and all else by which bytes become code. What needs one is in ALLOWED, with its reason.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint"}
_LIBRARIES = (
    # bytes that say what is to be called
    "pickle.*", "_pickle.*", "marshal.*", "shelve.*", "dill.*", "cloudpickle.*", "joblib.load", "joblib.numpy_pickle.*",
    "numpy.load", "numpy.lib.npyio.*", "numpy.lib.format.read_array", "pandas.read_pickle", "pandas.read_hdf",
    "torch.*", "scipy.io.loadmat", "multiprocessing.connection.*", "multiprocessing.managers.*", "xmlrpc.*",
    "mlflow.*.load_model", "mlflow.pyfunc.load_*", "logging.config.*",
    # YAML that makes any object; ruamel's safe and rt make plain values
    "yaml.*", "ruamel.yaml.*load*", "ruamel.yaml.*Loader*", "ruamel.yaml.*Constructor*",
    # text that is run, or a library
    "builtins.*", "runpy.*", "code.*", "codeop.*", "imp.*", "zipimport.*", "pkgutil.*", "pydoc.*", "timeit.*",
    "importlib.import_module", "importlib.__import__", "importlib.machinery.*", "importlib.util.find_spec",
    "importlib.util.spec_from*", "importlib.util.module_from*", "sys.modules", "types.FunctionType", "types.CodeType",
    "ctypes.*", "cffi.*", "jinja2.Template", "pandas.eval",
    # a shell's line, or a program by name alone
    "os.system", "os.popen", "os.exec*", "os.spawn*", "os.posix_spawn*", "os.startfile", "pty.*",
    "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell",
    # files wherever an archive says
    "shutil.unpack_archive",
)
_METHODS = {"extract", "extractall", "unpack_archive", "read_pickle", "read_hdf", "loadmat", "exec_module",
            "load_module", "load_model", "load_extension", "enable_load_extension", "from_string", "unsafe_load",
            "full_load", "subprocess_shell"}
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "cmd.exe", "powershell", "/bin/sh", "/bin/bash", "-c"}
ALLOWED = {
    "nfk/data/cifar_python.py: pickle.Unpickler",  # answers four names by stand-ins, refuses all others
    "nfk/models/custom.py: importlib.import_module",  # a network of the user's own is code, and says so
    "nfk/stages/changed.py: importlib.util.find_spec",  # where that lies: it runs the packages around it
    "nfk/stages/runner.py: importlib.import_module",  # of nfk.stages, by names of this program
    "nfk/stages/study.py: importlib.import_module",  # of nfk.studies, by names of this program
    "flows/refresh.py: the shell sh", "flows/refresh.py: the shell -c",  # a line of ours; what differs are its $1, $2
    "flows/worker.py: runpy.run_module",  # Prefect's own command line
}


def dangers(source: str) -> Iterator[str]:
    """Every mention of what can make bytes into code, a shell's line or a file anywhere."""
    tree = ast.parse(source)
    whole = dict(_imported(tree))
    for name in whole.values():
        if name.endswith(".*"):
            yield name if _is_dangerous(name[:-2] + ".load") else ""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in _BUILTINS and name not in whole:
                yield name
            case ast.Name() | ast.Attribute() if _is_dangerous(called := _whole_name(node, whole)):
                yield called
            case ast.Attribute(attr=name) if name in _METHODS:
                yield name
            case ast.Call():
                yield from _of_a_call(node, whole)
            case ast.Dict(keys=keys):
                yield from (f"{key.value}=" for key in keys
                            if isinstance(key, ast.Constant) and key.value in ("shell", "allow_pickle"))
            case ast.Constant(value=str(word)) if word in _SHELLS:
                yield f"the shell {word}"


def _of_a_call(call: ast.Call, whole: dict[str, str]) -> Iterator[str]:
    called = _whole_name(call.func, whole)
    for keyword in call.keywords:
        value = getattr(keyword.value, "value", None)
        if (keyword.arg in ("shell", "allow_pickle") and value is not False) or (
                keyword.arg == "typ" and value not in ("safe", "rt")):
            yield f"{keyword.arg}={value}"
    if called.startswith("subprocess.") and len(call.args) > 1:
        yield f"{called} with arguments by place, of which the ninth is shell"
    if called == "ruamel.yaml.YAML" and call.args:
        yield f"{called} with arguments by place"
    if called == "getattr" and len(call.args) > 1:
        of, name = _whole_name(call.args[0], whole), call.args[1]
        word = name.value if isinstance(name, ast.Constant) else "*"
        if of.partition(".")[0] in {each.partition(".")[0] for each in whole.values()} and (
                word == "*" or _is_dangerous(f"{of}.{word}")):
            yield f"getattr of {of}"


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The names that imports bind, and what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((each.asname, each.name) if each.asname else (each.name.partition(".")[0],) * 2
                        for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((each.asname or each.name, f"{node.module}.{each.name}") for each in node.names)


def _whole_name(node: ast.AST, whole: dict[str, str]) -> str:
    """Of `run` after `from os import system as run`: os.system. What is of no import is left as it is."""
    if isinstance(node, ast.Attribute):
        before = _whole_name(node.value, whole)
        return f"{before}.{node.attr}" if before else ""
    return whole.get(node.id, node.id if node.id == "getattr" else "") if isinstance(node, ast.Name) else ""


def _is_dangerous(name: str) -> bool:
    return not name.endswith("Error") and any(fnmatchcase(name, pattern) for pattern in _LIBRARIES)


def product(root: Path = ROOT) -> set[str]:
    """FILE: DANGER for all of the product's code."""
    files = [file for folder in ("nfk", "flows") for file in sorted((root / folder).rglob("*.py"))]
    return {f"{file.relative_to(root)}: {danger}" for file in files
            for danger in filter(None, dangers(file.read_text(encoding="utf-8")))}


def test_no_outside_data_becomes_code_in_the_product():
    found = product()
    assert found - ALLOWED == set()
    assert ALLOWED - found == set()


DANGEROUS = (
    "eval(text)", "exec(text)", "compile(text, '', 'exec')", "__import__(name)", "map(eval, texts)",
    "import pickle\npickle.loads(body)", "import pickle as p\np.loads(body)", "from pickle import loads\nloads(body)",
    "from pickle import loads as made\nmap(made, bodies)", "from pickle import *", "import _pickle\n_pickle.loads(b)",
    "import pickle\nclass U(pickle.Unpickler): pass", "from pickle import Unpickler\nclass U(Unpickler): pass",
    "import marshal\nmarshal.loads(b)", "import shelve\nshelve.open(f)", "import joblib\njoblib.load(f)",
    "from joblib import load\nload(f)", "import cloudpickle\ncloudpickle.loads(b)", "import dill\ndill.load(f)",
    "import numpy as np\nnp.load(f)", "import numpy\nnumpy.load(f, allow_pickle=False)",
    "from numpy import load\nload(f)", "import numpy as np\nnp.lib.format.read_array(f)",
    "read(f, allow_pickle=True)", "read(f, **{'allow_pickle': yes})", "import pandas as pd\npd.read_pickle(f)",
    "table.read_pickle(f)", "import pandas\npandas.read_hdf(f)", "import torch\ntorch.load(f)",
    "import scipy.io\nscipy.io.loadmat(f)", "from scipy.io import loadmat\nloadmat(f)",
    "import mlflow\nmlflow.pyfunc.load_model(u)", "import mlflow.sklearn\nmlflow.sklearn.load_model(u)",
    "from multiprocessing.connection import Client\nClient(a).recv()", "import yaml\nyaml.load(file)",
    "import yaml\nyaml.safe_load(file)", "import yaml\nyaml.unsafe_load(file)",
    "from ruamel.yaml import YAML\nYAML(typ='unsafe')", "from ruamel.yaml import YAML\nYAML(typ=kind)",
    "import ruamel.yaml\nruamel.yaml.YAML(typ=['unsafe'])", "import ruamel.yaml\nruamel.yaml.unsafe_load(f)",
    "import subprocess\nsubprocess.run(line, shell=True)", "import subprocess\nsubprocess.Popen(line, shell=shell)",
    "import subprocess\nsubprocess.run(line, **{'shell': True})",
    "import subprocess\nsubprocess.run(line, **dict(shell=1))",
    "import subprocess\nsubprocess.Popen(line, -1, None, None, None, None, None, True, True)",
    "import subprocess\nsubprocess.run(['sh', '-c', line])",
    "import subprocess\nsubprocess.run(['/bin/bash', '-l', line])",
    "import subprocess, sys\nsubprocess.run([sys.executable, '-c', line])",
    "import subprocess\nsubprocess.getoutput(line)", "import os\nos.system(line)",
    "from os import system as run\nrun(line)", "import os\nos.popen(line)", "import os\nos.execvp(name, names)",
    "import os\ngetattr(os, 'system')(line)", "import os\ngetattr(os, name)(line)",
    "import asyncio\nasyncio.create_subprocess_shell(line)", "import importlib\nimportlib.import_module(name)",
    "from importlib import import_module as found\nfound(name)",
    "from importlib import util\nutil.spec_from_file_location(name, f)", "spec.loader.exec_module(module)",
    "import runpy\nrunpy.run_path(f)", "import ctypes\nctypes.CDLL(f)", "import sys\nsys.modules[name]",
    "from jinja2 import Template\nTemplate(text)", "environment.from_string(text)", "database.load_extension(f)",
    "archive.extractall(to)", "archive.extract(name, to)", "import shutil\nshutil.unpack_archive(f)",
)


@pytest.mark.parametrize("line", DANGEROUS)
def test_each_of_them_is_seen(line):
    assert list(filter(None, dangers(line)))


@pytest.mark.parametrize("line", [
    "import re\nre.compile(text)", "import numpy as np\nnp.frombuffer(body, np.uint8)", "jitted.lower(x).compile()",
    "from ruamel.yaml import YAML\nYAML(typ='safe', pure=True).load(text)", "import json\njson.loads(body)",
    "import subprocess\nsubprocess.run(['git', 'status'], shell=False)",
    "from safetensors.numpy import load\nload(body)",
    "import pickle\ntry: read()\nexcept pickle.UnpicklingError: pass", "kept.load(name)",
    "from nfk.params import load\nload()", "getattr(params.data, name)", "import os\nos.environ['HOME']",
    "import importlib\nimportlib.invalidate_caches()",
])
def test_what_is_harmless_is_let_pass(line):
    assert list(filter(None, dangers(line))) == []


@pytest.mark.parametrize("folder", ["nfk", "nfk/data", "flows"])
def test_one_planted_anywhere_in_the_product_fails(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "planted.py").write_text("from os import system\n\n\ndef run(line):\n    system(line)\n")
    assert product(tmp_path) == {f"{folder}/planted.py: os.system"}


def test_ruff_sees_the_plain_forms_in_every_file():
    """Of tests and documentation too: a line of each, and the rule that `make check` fails by."""
    planted = {
        "exec(text)": "S102", "tarfile.open(f).extractall()": "S202", "pickle.loads(body)": "S301",
        "marshal.loads(body)": "S302", "eval(text)": "S307", "yaml.load(text)": "S506",
        "subprocess.run(line, shell=True)": "S602", "helper.run(line, shell=True)": "S604", "os.system(line)": "S605",
        "logging.config.listen()": "S612", "jinja2.Environment()": "S701"}
    imports = "\n".join(f"import {name}" for name in (
        "jinja2", "logging.config", "marshal", "os", "pickle", "subprocess", "tarfile", "yaml"))
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "--stdin-filename", "tests/x.py", "-"],
        input="\n".join([imports, *planted]), cwd=ROOT, capture_output=True, text=True)
    said = done.stdout.splitlines()
    for place, (line, rule) in enumerate(planted.items(), start=imports.count("\n") + 2):
        assert any(fault.startswith(f"tests/x.py:{place}:") and f" {rule} " in fault for fault in said), line
