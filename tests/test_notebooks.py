"""The notebooks of infra/notebooks run from top to bottom, and what they say of their numbers holds.

Their cells are plain Python without magics and run as one program in a process of its own: no kernel, so no further
packages, and a warning is an error as everywhere.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

NAMES = ("embed_my_images", "few_labels_and_search", "nfk_against_activations")


def cells(project, name):
    return json.loads((project / "infra" / "notebooks" / f"{name}.ipynb").read_text())["cells"]


def run(project, name, wanted):
    """The value of the expression `wanted` after the last cell, by way of JSON."""
    code = ["".join(cell["source"]) for cell in cells(project, name) if cell["cell_type"] == "code"]
    program = "\n\n".join([*code, f"import json\nprint(json.dumps({wanted}))"])
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=project,
                          timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_own_images_and_network(request):
    found = run(request.config.rootpath, "embed_my_images",
                "dict(shape=vectors.shape, own=float(np.mean(guesses == digits[4000:])), "
                "residual=float(kernel.residuals_.max()), axes=len(plt.gcf().axes))")
    assert found["shape"] == [1000, 32]
    assert found["own"] > 0.8
    assert found["residual"] < 1e-3
    assert found["axes"] == 3  # two panels and a colour bar


def test_against_activations_where_it_wins_and_loses(request):
    accuracy = run(request.config.rootpath, "nfk_against_activations", "accuracy")
    nfk = accuracy["NFK, 64"]
    assert accuracy["last hidden layer"] < nfk
    assert nfk < min(accuracy[f"PCA of {of}, 64"] for of in ("pixels", "all activations"))
    assert nfk < accuracy["all activations"]
    assert nfk == pytest.approx(0.84, abs=0.03)


def test_few_labels_and_search(request):
    few, precision = run(request.config.rootpath, "few_labels_and_search",
                         "[{name: at[100].mean for name, at in found_few.items()}, precision]")
    for found, lead in ((few, 0.03), (precision, 0.01)):
        nfk = found.pop("NFK")
        assert len(found) == 4
        assert all(nfk > other + lead for other in found.values()), found
    assert few["PCA of pixels"] < 0.82


@pytest.mark.parametrize("name", NAMES)
def test_they_are_short_and_kept_without_outputs(request, name):
    found = cells(request.config.rootpath, name)
    code = [cell for cell in found if cell["cell_type"] == "code"]
    assert len(found) < 15
    assert found[0]["source"][0].startswith("# ")
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []


def test_every_notebook_is_run_and_the_readme_names_it(request):
    root = request.config.rootpath
    assert {path.stem for path in (root / "infra" / "notebooks").glob("*.ipynb")} == set(NAMES)
    readme = (root / "README.md").read_text()
    assert [name for name in NAMES if f"(infra/notebooks/{name}.ipynb)" not in readme] == []


def test_fifteen_lines_are_fifteen(request):
    found = cells(request.config.rootpath, "embed_my_images")
    fifteen, = ("".join(cell["source"]) for cell in found if "NeuralFisherKernel(" in "".join(cell["source"]))
    assert len([line for line in fifteen.splitlines() if line.strip()]) <= 15
