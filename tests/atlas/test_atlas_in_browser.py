"""The atlas as its reader uses it: hover, click, search, other axes and colours, in Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from nfk.atlas.page import render
from nfk.evaluation.knn import nearest
from tests.atlas.example_atlas import CLASSES, SIDE, example_atlas
from tests.chromium import Tab, require, tab

ATLAS = example_atlas()
POINT = 24  # away from the edge of the lattice


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Tab]:
    require()
    folder = tmp_path_factory.mktemp("atlas")
    file = folder / "gan.html"
    file.write_text(render(ATLAS), encoding="utf-8")
    with tab(file, folder / "profile") as opened:
        opened.wait("document.body?.dataset.ready")
        yield opened
        assert opened.requested == [file.as_uri()]
        assert opened.faults == []


def place(page: Tab, point: int) -> list[float]:
    """Where a point of the map is drawn, by the viewer's own axes."""
    return page.value(f"""(() => {{
        const plot = document.getElementById("plot"), box = plot.getBoundingClientRect();
        const {{xaxis, yaxis}} = plot._fullLayout, [x, y] = {ATLAS.plane[point].tolist()};
        return [box.x + xaxis._offset + xaxis.d2p(x), box.y + yaxis._offset + yaxis.d2p(y)]; }})()""")


def choose(page: Tab, select: str, value: str) -> None:
    page.value(f"""(() => {{ const chosen = document.getElementById("{select}"); chosen.value = "{value}";
        chosen.dispatchEvent(new Event("change")); }})()""")


def find(page: Tab, text: str) -> None:
    page.value("document.getElementById('find').value = ''; document.getElementById('find').focus()")
    page.type(text)


def test_an_image_is_shown_on_hover(page: Tab) -> None:
    page.mouse(*place(page, POINT))
    page.wait("!document.getElementById('hover').hidden")
    assert f"#{ATLAS.ids[POINT]}" in page.value("document.getElementById('hover').textContent")
    seen = page.value(f"""Array.from(document.querySelector("#hover canvas").getContext("2d")
        .getImageData(0, 0, {SIDE}, {SIDE}).data.filter((_, i) => i % 4 === 0))""")
    assert seen == ATLAS.pixels[POINT].ravel().tolist()


def test_a_click_finds_the_nearest_by_cosine(page: Tab) -> None:
    page.mouse(*place(page, POINT), click=True)
    page.wait(f"document.getElementById('chosen').dataset.row === '{ATLAS.ids[POINT]}'")
    [itself, *expected] = nearest(ATLAS.embedding, ATLAS.embedding[[POINT]], 17, "cosine")[0]
    assert itself == POINT
    rows = "Array.from(document.querySelectorAll('.neighbours button'), (button) => Number(button.dataset.row))"
    assert page.value(rows) == ATLAS.ids[expected].tolist()
    same = int(np.sum(ATLAS.categories["label"].values[expected] == POINT % 3))
    assert f"{same} of its class" in page.value("document.getElementById('chosen').textContent")
    assert page.value("document.querySelectorAll('.neighbours .other').length") == 16 - same

    page.value("document.querySelectorAll('.neighbours button')[2].click()")
    assert page.value("document.getElementById('chosen').dataset.row") == str(ATLAS.ids[expected[2]])


def test_a_search_marks_a_class_and_finds_a_row(page: Tab) -> None:
    faint = """document.querySelectorAll("#plot .trace").length && Array.from(document.querySelectorAll("#plot .point"),
        (point) => Number(getComputedStyle(point).opacity)).filter((opacity) => opacity < 0.1).length"""
    find(page, CLASSES[1].upper())
    page.wait(f"{faint} === 40")
    assert page.value("document.getElementById('found').value") == f"20 images of class {CLASSES[1]}"
    assert page.value("document.querySelector('main b')") is None, "names are text"

    find(page, f"#{ATLAS.ids[3]}")
    page.wait(f"document.getElementById('chosen').dataset.row === '{ATLAS.ids[3]}'")
    assert page.value(faint) == 0
    find(page, "7")  # a class by that name comes before a row
    page.wait("document.getElementById('found').value === '20 images of class 7'")
    find(page, "#9999")
    page.wait("document.getElementById('found').value === 'row #9999 is not among those shown'")
    find(page, "cow")
    page.wait("document.getElementById('found').value === 'no class is called cow'")


def test_components_are_axes_and_measures_are_colours(page: Tab) -> None:
    choose(page, "x", "component-2")
    choose(page, "colour", "surprise")
    drawn = page.value("(({x, y, marker}) => [x, y, marker.color])(document.getElementById('plot').data[0])")
    assert drawn[0] == pytest.approx(ATLAS.embedding[:, 2].tolist(), rel=1e-6)
    assert drawn[1] == ATLAS.plane[:, 1].tolist()
    assert drawn[2][:4] == pytest.approx(ATLAS.measures["surprise"].values[:4].tolist(), abs=1e-6)
    assert drawn[2][4] is None
    assert page.value("document.getElementById('plot').layout.xaxis.title.text") == "component 3 (10 %)"
    choose(page, "colour", "probe")
    assert page.value("document.getElementById('plot').data.slice(0, 2).map(({name}) => name)") == ["right", "wrong"]
