"""The pages of infra/docs: they build without a warning, and what they show works as printed."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import subprocess
import sys

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from nfk import params
from nfk.family_params import CustomParams, TorchParams
from tests.snippets import blocks, faults, pages, shell_lines

PROGRAM = """
import contextlib, io, json, sys, traceback
said = {}
for page, blocks in json.load(sys.stdin).items():
    out, names = io.StringIO(), {"__name__": "page"}
    try:
        with contextlib.redirect_stdout(out):
            for number, block in enumerate(blocks, 1):
                exec(compile(block, f"{page}, block {number}", "exec"), names)
    except BaseException:
        sys.exit(f"{page}: {traceback.format_exc()}")
    said[page] = out.getvalue()
print(json.dumps(said))
"""
"""Runs the blocks of each page as one program; the pages one after the other, since to import JAX takes the longest."""

BUILD = """
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.flax import save_file
from nfk import NeuralFisherKernel
from nfk.family_params import CustomParams
from nfk.models.custom import Custom

config = CustomParams.model_validate_json(sys.argv[1])
model = Custom.initial(config, (28, 28, 1), 10)
images = np.random.default_rng(0).uniform(size=(20, 28, 28, 1)).astype(np.float32)
vectors = NeuralFisherKernel(model.log_density, model.params, rank=4).fit_transform(images)
save_file(flatten_dict(model.params, sep="/"), "my_weights.safetensors")
again = Custom.initial(config, (28, 28, 1), 10).with_variables(model.params)
print(vectors.shape, *sorted(flatten_dict(again.params, sep="/"))[:2])
"""


def run(code, folder, *arguments, given=""):
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *arguments], input=given, capture_output=True,
                          text=True, cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_they_build_without_a_warning_and_load_nothing_from_elsewhere(request, tmp_path):
    made = subprocess.run([sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-d",
                           str(tmp_path / "doctrees"), str(request.config.rootpath / "infra/docs"),
                           str(tmp_path / "site")], capture_output=True, text=True, timeout=900)
    assert made.returncode == 0, made.stderr
    site = {str(page.relative_to(tmp_path / "site")): page.read_text() for page in (tmp_path / "site").rglob("*.html")}
    assert len(site) > 25
    loaded = {address for text in site.values()
              for address in re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"((?:https?:)?//[^\"]+)", text)}
    assert loaded == set()
    assert "<mfrac>" in site["concepts.html"]
    assert "nfk registry promote" in site["reference/commands.html"]
    assert "learning_rate" in site["reference/parameters.html"]
    assert "Float[Array, 'p k']" in re.sub("<[^>]+>", "", site["reference/fisher.html"]).replace("&#39;", "'")
    assert "Alias for field" not in "".join(site.values())


@pytest.mark.slow
def test_python_blocks_run_and_print_what_is_shown(request, tmp_path):
    root = request.config.rootpath / "infra/docs"
    programs = {str(page.relative_to(root)): blocks(page, "python") for page in root.rglob("*.md")
                if blocks(page, "python") and page.name != "own_network.md"}
    assert len(programs) > 2
    said = json.loads(run(PROGRAM, tmp_path, given=json.dumps(programs)))
    shown = "".join(blocks(root / "quickstart.md", "text")).splitlines()
    printed = said["quickstart.md"].splitlines()
    number = re.compile(r"\d[\d.,]*(?:e-\d+)?")
    assert [number.sub("#", line) for line in printed] == [number.sub("#", line) for line in shown]
    for ours, page in zip(printed, shown, strict=True):
        if "%" in ours:
            assert int(number.search(ours)[0]) == pytest.approx(int(number.search(page)[0]), abs=3), ours
    assert "100 labels" in said["howto/few_labels_and_search.md"]


@pytest.mark.slow
def test_the_network_of_ones_own_is_one(request, tmp_path):
    page = request.config.rootpath / "infra/docs/howto/own_network.md"
    module, = blocks(page, "python")
    (tmp_path / re.match(r"# (\w+\.py)\n", module)[1]).write_text(module)
    family = YAML(typ="safe").load(blocks(page, "yaml")[0])["families"]["mine"]
    found = run("import sys\n" + BUILD, tmp_path, json.dumps(family))
    assert found == "(20, 4) Conv_0/bias Conv_0/kernel\n"


def test_shell_lines_name_what_exists(request):
    root = request.config.rootpath
    lines = [(page, line) for page in pages(root) for line in shell_lines(page)]
    assert len(lines) > 60
    assert [f"{page.name}: {fault}" for page, line in lines if (fault := faults(line, root))] == []


@pytest.mark.parametrize("line", [
    "nfk svd", "nfk svd gan --fast", "nfk registry crown x", "nfk atlas gan --points 3", "make coffee",
    "python -m flows.sweep --nope 3", "infra/local.sh fly", "curl x"])
def test_a_line_that_would_not_run_is_found(request, line):
    assert faults(line, request.config.rootpath)


def test_yaml_blocks_are_parameters(request):
    root, yaml = request.config.rootpath, YAML(typ="safe")
    found = [block for page in pages(root) for block in blocks(page, "yaml")]
    assert len(found) > 4
    for block in found:
        content = yaml.load((root / "params.yaml").read_text())
        for section, values in yaml.load(block).items():
            content[section] = content[section] | values
        params.parse(content)


def test_every_parameter_is_explained():
    sections = [field.annotation for field in params.Params.model_fields.values()
                if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)]
    models = [*sections, params.ThetaParams, CustomParams, TorchParams, *params.MODEL_PARAMS.values()]
    assert [f"{model.__name__}.{name}" for model in models for name, field in model.model_fields.items()
            if name != "model" and not field.description] == []


def documented(request):
    text = "".join(page.read_text() for page in (request.config.rootpath / "infra/docs/reference").glob("*.md"))
    return sorted(set(re.findall(r"automodule:: ([\w.]+)", text)))


@pytest.mark.parametrize("package", ["nfk.fisher", "nfk.linalg"])
def test_every_module_of_the_core_is_in_the_reference(request, package):
    found = importlib.import_module(package)
    modules = {f"{package}.{module.name}" for module in pkgutil.iter_modules(found.__path__)}
    assert len(modules) > 5
    assert modules <= set(documented(request))


def test_names_that_pages_link_to_exist(request):
    text = "".join(page.read_text() for page in pages(request.config.rootpath))
    linked = set(re.findall(r"\{py:\w+\}`([\w.]+)`", text))
    assert len(linked) > 5
    for name in linked:
        module, _, attribute = name.rpartition(".")
        found = importlib.import_module(module)
        assert hasattr(found, attribute) or importlib.util.find_spec(name), name


def public(module):
    """(name, function or class) of what a module and its classes define for others."""
    for name, found in vars(module).items():
        if name.startswith("_") or getattr(found, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(found):
            yield name, found
            for inner, method in vars(found).items():
                if not inner.startswith("_") and inspect.isfunction(method):
                    yield f"{name}.{inner}", method
        elif callable(found) and inspect.isfunction(inspect.unwrap(found)):
            yield name, inspect.unwrap(found)


def test_what_is_in_the_reference_has_words_and_shapes(request):
    """A docstring each; and arrays have their shape in the type, or in words."""
    silent, shapeless = [], []
    for name in [*documented(request), "nfk.estimator"]:
        for inner, found in public(importlib.import_module(name)):
            words = found.__doc__
            if not words or words.startswith(f"{inner}("):  # what Python writes itself for a tuple with names
                silent.append(f"{name}.{inner}")
            elif not inspect.isclass(found):
                bare = [text for text in found.__annotations__.values()
                        if re.search(r"\bArray\b|np\.ndarray", str(text)) and "[" not in str(text)]
                if bare and not re.search(r"\([a-z0-9, ]+\)|R\^|[a-z] x [a-z]", words):
                    shapeless.append(f"{name}.{inner}")
    assert silent == []
    assert shapeless == []


def test_docstrings_are_shown_as_they_are_written(monkeypatch, request):
    monkeypatch.syspath_prepend(str(request.config.rootpath / "infra/docs/extensions"))
    shown = importlib.import_module("plain_docstrings").to_restructured_text(
        "s_i is |V^T u_i|, `damping` of `nfk.fisher.scores`.\n\nrank: k, the\n    numbers. Cost: k *p.\nkey: one.\n\n"
        "| a | b |\n|---|---|\n| 1 | x |\n|   | y |\n\n    code *as is*")
    assert r"s\_i is \|V^T u\_i\|, ``damping`` of :py:obj:`nfk.fisher.scores`." in shown
    assert "``rank``\n    k, the numbers. **Cost:** k \\*p.\n``key``\n    one." in shown
    assert "   * - 1\n     - x y" in shown
    assert "::\n\n    code *as is*" in shown


def test_a_name_that_is_not_defined_fails_the_lint(request):
    code = ("from jaxtyping import Array, Float\n\n\n"
            'def f(x: Float[Array, "n p"]) -> Float[Array, " n"]:\n    return {}\n')
    for value, status in (("x[:, 0]", 0), ("missing", 1)):
        done = subprocess.run([sys.executable, "-m", "ruff", "check", "--stdin-filename", "nfk/linalg/new.py", "-"],
                              input=code.format(value), capture_output=True, text=True, cwd=request.config.rootpath)
        assert done.returncode == status, done.stdout
    assert "F821" in done.stdout


def test_check_is_lint_layout_types_layers_and_documentation(request):
    makefile = (request.config.rootpath / "Makefile").read_text()
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    assert re.findall(r"(ruff check|mypy|lint-imports|docs)\b", recipe) == [
        "ruff check", "ruff check", "mypy", "lint-imports", "docs"]
    assert "--select E1,E2,E3" in recipe
    assert "--fail-on-warning" in re.search(r"^docs:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]


def test_hooks_are_the_words_of_the_makefile_and_fetch_nothing(request):
    root = request.config.rootpath
    repositories = YAML(typ="safe").load((root / ".pre-commit-config.yaml").read_text())["repos"]
    assert {repository["repo"] for repository in repositories} == {"local"}
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert [fault for hook in hooks if (fault := faults(hook["entry"], root))] == []
    assert "check" in {hook["id"] for hook in hooks}
