"""What is on outside data nowhere in the product: no pickle, no eval, no unsafe YAML, no line for a shell."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

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
