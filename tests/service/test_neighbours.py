"""The index: its own rows are their nearest, and vectors of another embedder are refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nfk import names, store
from nfk.embedder import Embedder
from nfk.service.neighbours import IndexFault, read
from tests.service.small_embedder import write


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return Embedder.load(write(tmp_path_factory.mktemp("embedder")))


ROWS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
NAMES = [f"{place}.png" for place in range(50)]


def parquet(path, digests, rows=ROWS, names=NAMES):
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    table = pa.table({"id": names, "embedding": column}).replace_schema_metadata(
        {f"digest.{name}": digest for name, digest in digests.items()})
    pq.write_table(table, path)
    return path


def offline(path, digests):
    with store.write(path, inputs=digests) as writer:
        writer.put("embedding", ROWS)
        writer.attributes.update(embedder="x/1", ids=NAMES)
    return path


def family(path, digests, scaling="none", *, named=False):
    with store.write(path, inputs=digests) as writer:
        for split, start, stop in (("train", 0, 30), ("validation", 30, 40), ("test", 40, 50)):
            writer.put(split, ROWS[start:stop])
            writer.put(f"{split}_id", np.arange(start, stop) + 1000)
            if named:
                names.put(writer, f"{split}_file", NAMES[start:stop])
        writer.attributes.update(scaling=scaling, rank=4)
    return path


def named(path, digests):
    return family(path, digests, named=True)


@pytest.mark.parametrize(("make", "name", "first", "last"), [
    (parquet, "v.parquet", "0.png", "49.png"), (offline, "v.zarr", "0.png", "49.png"),
    (family, "f.zarr", "train/1000", "test/1049"), (named, "f.zarr", "0.png", "49.png")])
def test_every_row_is_its_own_nearest_and_the_rest_follow_by_distance(embedder, tmp_path, make, name, first, last):
    index = read(make(tmp_path / name, embedder.inputs), embedder)
    assert len(index) == 50
    near = index.nearest(ROWS, 50)
    assert [near[0][0].id, near[49][0].id] == [first, last]
    for row, found in zip(ROWS, near, strict=True):
        assert found[0].distance == pytest.approx(0, abs=1e-3)
        expected = np.sort(np.linalg.norm(ROWS.astype(np.float64) - row, axis=1))
        np.testing.assert_allclose([each.distance for each in found], expected, atol=1e-3)
        assert len({each.id for each in found}) == 50
    assert len(index.nearest(ROWS[:1], 1000)[0]) == 50


@pytest.mark.parametrize(("make", "name"), [(parquet, "v.parquet"), (offline, "v.zarr"), (family, "f.zarr")])
def test_vectors_of_another_embedder_are_refused_by_digest(embedder, tmp_path, make, name):
    other = {**embedder.inputs, "factors": "f" * 64}
    with pytest.raises(IndexFault, match=rf"was made with factors f{{12}}, the embedder's factors is "
                                         rf"{embedder.inputs['factors'][:12]}"):
        read(make(tmp_path / name, other), embedder)
    with pytest.raises(IndexFault, match="does not say which data it was made with"):
        read(make(tmp_path / f"2{name}", {}), embedder)


def test_what_is_no_index_is_refused_in_one_line(embedder, tmp_path):
    with pytest.raises(IndexFault, match="no such file"):
        read(tmp_path / "none.parquet", embedder)
    (tmp_path / "junk.parquet").write_bytes(b"PAR1junk")
    with pytest.raises(IndexFault, match="no Parquet of the columns id and embedding"):
        read(tmp_path / "junk.parquet", embedder)
    pq.write_table(pa.table({"name": NAMES}), tmp_path / "other.parquet")
    with pytest.raises(IndexFault, match="no Parquet of the columns"):
        read(tmp_path / "other.parquet", embedder)
    with pytest.raises(IndexFault, match=r"array of shape \(50, 3\); must be n ids and n vectors of 4 f"):
        read(parquet(tmp_path / "short.parquet", embedder.inputs, ROWS[:, :3].copy()), embedder)
    rows = ROWS.copy()
    rows[7, 2] = np.nan
    with pytest.raises(IndexFault, match="vector 7 is not finite"):
        read(parquet(tmp_path / "nan.parquet", embedder.inputs, rows), embedder)
    with pytest.raises(IndexFault, match='scaled "unit", the embedder "none"'):
        read(family(tmp_path / "unit.zarr", embedder.inputs, "unit"), embedder)


@pytest.mark.parametrize(("column", "message"), [
    (pa.array([[1.0] * 4] * 50), "the column embedding must be lists of one length, none missing"),
    (pa.array([None, *[[1.0] * 4] * 49], pa.list_(pa.float32(), 4)), r"no Parquet of the columns .* size=4"),
    (pa.array([["a"] * 4] * 50, pa.list_(pa.string(), 4)), "no Parquet of the columns id and embedding"),
])
def test_a_column_that_is_no_vectors_is_refused(embedder, tmp_path, column, message):
    pq.write_table(pa.table({"id": NAMES, "embedding": column}), tmp_path / "other.parquet")
    with pytest.raises(IndexFault, match=message) as refusal:
        read(tmp_path / "other.parquet", embedder)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(("arrays", "attributes", "message"), [
    ({"left": ROWS}, {}, "holds left, no embeddings; give what `nfk embed` wrote"),
    ({"embedding": ROWS}, {}, r"not as `nfk embed` writes them \(KeyError: 'ids'\); embed the images again"),
    ({"embedding": ROWS}, {"ids": 7}, r"not as `nfk embed` writes them \(TypeError: "),
    ({"embedding": ROWS}, {"ids": NAMES[:-1]}, r"49 ids and a float32 array of shape \(50, 4\)"),
    ({"embedding": ROWS.astype(np.int32)}, {"ids": NAMES}, r"50 ids and a int32 array of shape \(50, 4\)"),
    ({"embedding": ROWS[:0]}, {"ids": []}, r"0 ids and a float32 array of shape \(0, 4\)"),
    ({"embedding": ROWS[0]}, {"ids": NAMES[:4]}, r"4 ids and a float32 array of shape \(4,\)"),
    ({f"{split}{end}": ROWS[:3] for split in ("train", "validation", "test") for end in ("", "_id")}, {},
     r"not as `nfk embed` writes them \(KeyError: 'scaling'\)"),
    ({"train": ROWS[:3], "validation": ROWS[0], "test": ROWS[:3], **{
        f"{split}_id": np.arange(3) for split in ("train", "validation", "test")}}, {"scaling": "none"},
     r"not as `nfk embed` writes them \(ValueError: "),
])
def test_a_store_of_something_else_is_refused(embedder, tmp_path, arrays, attributes, message):
    with store.write(tmp_path / "other.zarr", inputs=embedder.inputs) as writer:
        for name, values in arrays.items():
            writer.put(name, values)
        writer.attributes.update(attributes)
    with pytest.raises(IndexFault, match=message) as refusal:
        read(tmp_path / "other.zarr", embedder)
    assert str(refusal.value).isprintable()
