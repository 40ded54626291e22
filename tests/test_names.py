"""Names in a store come back as they were, any part of them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfk import names, store

TEXT = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=TEXT, data=st.data())
def test_any_names_and_any_part_of_them(tmp_path, values, data):
    with store.write(tmp_path / "kept.zarr", inputs={}) as writer:
        names.put(writer, "file", values)
    found = store.read(tmp_path / "kept.zarr")
    assert names.read(found, "file") == values
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    assert names.read(found, "file", start, stop) == values[start:stop]
    assert names.read(found, "other") is None


def test_a_name_that_is_no_utf8_is_told_by_its_bytes(tmp_path):
    with store.write(tmp_path / "kept.zarr", inputs={}) as writer:
        names.put(writer, "file", [b"caf\xe9.png".decode("utf-8", "surrogateescape"), "café.png"])
    assert names.read(store.read(tmp_path / "kept.zarr"), "file") == [r"caf\udce9.png", "café.png"]


@pytest.mark.parametrize("stop", [None, 2])
def test_empty_names_are_names(tmp_path, stop):
    with store.write(tmp_path / "kept.zarr", inputs={}) as writer:
        names.put(writer, "file", ["", ""])
    assert names.read(store.read(tmp_path / "kept.zarr"), "file", 0, stop) == ["", ""]
