"""Draws the README's picture: python infra/figures/pipeline.py writes pipeline.png beside itself.

A staircase: each stage is a row, each store a column that starts where it is written and runs down to those
that read it. Who reads what is taken from dvc.yaml; only the words and colours are written here.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from ruamel.yaml import YAML

DAG = Path(__file__).parents[2] / "dvc.yaml"
WIDTH, HEIGHT, DPI = 1600, 1124, 200  # pixels; positions below are pixels from the top left
PAPER, INK, QUIET, FAINT = "#ffffff", "#1b1e23", "#5a616b", "#c9cdd2"
MONO = "DejaVu Sans Mono"


class Stage(NamedTuple):
    """A row: the stage of dvc.yaml, what it writes, and the colour of that."""

    name: str
    store: str
    holds: str
    colour: str


STAGES = (
    Stage("data", "data/NAME.zarr", "images, labels, split, source digest", "#56616d"),
    Stage("baselines", "evaluation/pixels.json", "what pixels and their PCA tell", "#7a6a1f"),
    Stage("pretrain", "models/F/", "weights, card, samples, curves", "#7d4f96"),
    Stage("statistics", "statistics/F.zarr", "mean score, Fisher information", "#20796b"),
    Stage("svd", "factors/F.zarr", "singular values and vectors, residuals", "#b4601f"),
    Stage("embed", "embeddings/F.zarr", "k numbers an image", "#0b5a8a"),
    Stage("evaluate", "evaluation/F/", "metrics, figures, claims", "#9c3455"),
    Stage("report", "report/index.html", "one page of it all", "#2f3640"),
)
ROW = {stage.name: 344 + 90 * place for place, stage in enumerate(STAGES)}
COLUMN = {stage.name: 384 + 78 * place for place, stage in enumerate(STAGES)}
STAGE_LEFT, STAGE_WIDTH, STAGE_HEIGHT = 92, 214, 60
TRACKER_LEFT, TRACKER_WIDTH = 1318, 246


def readers() -> dict[str, list[str]]:
    """Each stage's name, and those drawn that read one of its outputs, or a folder of them; studies are not."""
    stages = YAML(typ="safe", pure=True).load(DAG.read_text(encoding="utf-8"))["stages"]
    bodies = {name: stage.get("do", stage) for name, stage in stages.items()}

    def reads(reader: str, writer: str) -> bool:
        outputs = [path for kind in ("outs", "metrics") for path in bodies[writer].get(kind, ())]
        return any(f"{path}/".startswith(f"{read}/") for path in outputs for read in bodies[reader]["deps"])

    return {writer: [reader for reader in bodies if reader in ROW and reads(reader, writer)] for writer in bodies}


def box(axes: Axes, left: float, top: float, width: float, height: float, edge: str, face: str) -> None:
    axes.add_patch(FancyBboxPatch((left, top), width, height, boxstyle="round,pad=0,rounding_size=12",
                                  edgecolor=edge, facecolor=face, linewidth=1.2, zorder=3))


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>,head_length=5,head_width=2.6", color=QUIET,
                                   linewidth=1.3, shrinkA=0, shrinkB=0, zorder=2))


def doors(axes: Axes) -> None:
    """The three ways in, each running the next: Prefect runs DVC, DVC runs the command line."""
    axes.text(STAGE_LEFT, 40, "Three doors to the same stages", color=QUIET, fontsize=8.5, va="center")
    entries = ((STAGE_LEFT, 300, "nfk STAGE F", "one stage, by hand"),
               (480, 432, "dvc repro", "order and cache, from dvc.yaml"),
               (1000, 564, "Prefect flow", "when and where: schedules, retries, alerts"))
    for left, width, name, does in entries:
        box(axes, left, 68, width, 110, INK, "#f4f5f6")
        axes.text(left + 22, 104, name, color=INK, fontsize=11, fontfamily=MONO, weight="bold", va="center",
                  zorder=4)
        axes.text(left + 22, 147, does, color=QUIET, fontsize=8.5, va="center", zorder=4)
    for (left, *_), (before, width, *_) in zip(entries[1:], entries[:-1], strict=True):
        arrow(axes, (left, 123), (before + width + 5, 123))
        axes.text((left + before + width) / 2 + 6, 105, "runs", color=QUIET, fontsize=7.5, ha="center",
                  va="center")
    middle = STAGE_LEFT + STAGE_WIDTH / 2
    arrow(axes, (middle, 178), (middle, ROW["data"] - 34))
    axes.text(middle + 18, 240, "with every number from params.yaml", color=QUIET, fontsize=8.5, va="center")


def staircase(axes: Axes, canvas: FigureCanvasAgg) -> None:
    """Stages down the left, stores across; a dot where a store is read, a square where it is written."""
    read_by = readers()
    for stage in STAGES:
        y = ROW[stage.name]
        box(axes, STAGE_LEFT, y - STAGE_HEIGHT / 2, STAGE_WIDTH, STAGE_HEIGHT, stage.colour, stage.colour)
        axes.text(STAGE_LEFT + STAGE_WIDTH / 2, y, stage.name, color="white", fontsize=11, weight="bold",
                  ha="center", va="center_baseline", zorder=4)
        column = COLUMN[stage.name]
        axes.plot([STAGE_LEFT + STAGE_WIDTH, column], [y, y], color=FAINT, linewidth=1.3, zorder=1)
        reads = [ROW[name] for name in read_by[stage.name]]
        axes.plot([column, column], [y, max(reads, default=y)], color=stage.colour, linewidth=2.2, zorder=2)
        axes.plot([column] * len(reads), reads, "o", color=stage.colour, markersize=6.5,
                  markeredgecolor=PAPER, markeredgewidth=1.2, zorder=4)
        axes.add_patch(Rectangle((column - 12, y - 12), 24, 24, color=stage.colour, zorder=4))
        path = axes.text(column + 28, y - 15, stage.store, color=stage.colour, fontsize=9.5, fontfamily=MONO,
                         weight="bold", va="center")
        holds = axes.text(column + 28, y + 17, stage.holds, color=INK, fontsize=8.5, va="center")
        ends = [text.get_window_extent(canvas.get_renderer()).x1 for text in (path, holds)]
        axes.plot([max(ends) + 22, TRACKER_LEFT - 12], [y, y], color=QUIET, linewidth=1,
                  linestyle=(0, (1, 3)))
        axes.plot([TRACKER_LEFT - 8], [y], marker=5, color=QUIET, markersize=4.5)


def families(axes: Axes) -> None:
    """The bracket around the stages that run once for each network."""
    top, bottom, x = ROW["pretrain"] - STAGE_HEIGHT / 2, ROW["evaluate"] + STAGE_HEIGHT / 2, 66
    axes.plot([x + 10, x, x, x + 10], [top, top, bottom, bottom], color=QUIET, linewidth=1.2)
    axes.text(x - 24, (top + bottom) / 2, "for each network F", color=QUIET, fontsize=9, rotation=90,
              ha="center", va="center")


def tracker(axes: Axes) -> None:
    """MLflow beside all stages."""
    top, bottom = ROW["data"] - STAGE_HEIGHT / 2, ROW["report"] + STAGE_HEIGHT / 2
    box(axes, TRACKER_LEFT, top, TRACKER_WIDTH, bottom - top, "#0b5a8a", "#eef5fa")
    x = TRACKER_LEFT + 22
    axes.text(x, top + 42, "MLflow", color="#0b5a8a", fontsize=11, weight="bold", va="center", zorder=4)
    parts = (("run per pipeline", ("status", "dvc.lock", "params.yaml")),
             ("run per stage", ("parameters", "metrics", "figures", "digests", "commit", "DVC hashes", "versions")))
    y = top + 92
    for title, lines in parts:
        axes.text(x, y, title, color=INK, fontsize=8.5, weight="bold", va="top", zorder=4)
        y += 37
        for line in lines:
            axes.text(x, y, line, color=INK, fontsize=8.5, va="top", zorder=4)
            y += 33
        y += 24


def legend(axes: Axes) -> None:
    """What the square and the dot mean."""
    y, x = HEIGHT - 46, COLUMN["data"]
    axes.add_patch(Rectangle((x - 10, y - 10), 20, 20, color=QUIET))
    axes.text(x + 24, y, "written by the stage", color=QUIET, fontsize=8.5, va="center")
    axes.plot([x + 320], [y], "o", color=QUIET, markersize=6)
    axes.text(x + 342, y, "read by the stage", color=QUIET, fontsize=8.5, va="center")


def draw(path: Path) -> None:
    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.set_axis_off()
    doors(axes)
    families(axes)
    staircase(axes, canvas)
    tracker(axes)
    legend(axes)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
