"""A right factor made and read by panels: the factors of the whole, whatever is cut, killed or damaged."""

from __future__ import annotations

import numpy as np
import pytest

from nfk.checkpoint import RowFile
from nfk.linalg import panels
from nfk.linalg.factors import RankError, with_rounding
from nfk.linalg.gram import gram_svd
from nfk.linalg.panels import panel_image_blocks, panel_svd
from nfk.linalg.rows import DenseRows, in_file, in_memory, silent
from nfk.linalg.tall import FiledFactor, FiledRows
from tests.linalg.prescribed import SPECTRA, matrix
from tests.linalg.test_rows import Memory

N, P, RANK = 120, 500, 8
CUT = {"rank": RANK, "resident_rows": 32, "panel_rows": 150}
PANELS = 4


def rows(name: str = "slow decay", seed: int = 0) -> DenseRows:
    return DenseRows(matrix(SPECTRA[name](100), N, P, seed), 16)


@pytest.fixture(params=[500, 64], ids=["one piece a panel", "pieces"])
def pieces(request, monkeypatch):
    monkeypatch.setattr(panels, "_PIECE", request.param)


@pytest.mark.parametrize("name", ["fast decay", "slow decay", "one huge mode", "rank deficient"])
def test_factors_are_those_of_the_whole(name, pieces):
    whole, parts = gram_svd(rows(name), rank=RANK), panel_svd(rows(name), **CUT)
    assert parts.singular_values == pytest.approx(whole.singular_values, rel=1e-6)
    assert parts.squared_norm == pytest.approx(whole.squared_norm, rel=1e-6)
    eps = float(np.finfo(np.float32).eps)
    room = 20 * eps * whole.singular_values[0] / whole.singular_values  # a mode's own rounding, and its neighbours'
    assert np.all(np.max(np.abs(parts.left - whole.left), axis=0) < room)
    assert np.all(np.max(np.abs(np.asarray(parts.right) - np.asarray(whole.right)), axis=0) < room)
    assert parts.orthogonality == pytest.approx(whole.orthogonality, abs=1e-5)
    assert np.all(parts.residuals < 1e-6)


def test_the_panels_are_as_many_as_were_asked_for_and_cost_a_pass_each():
    memory, asked = Memory(), []
    counted = rows()
    block = counted.block
    counted.block = lambda index: asked.append(index) or block(index)
    found = panel_svd(counted, checkpoint=memory, **CUT)
    assert memory.kept["panels"]["stops"].tolist() == [150, 300, 450, 500]
    for_gram = sum(range(8, 0, -2)) + 1  # groups of two blocks; and one to learn the precision from
    assert len(asked) == for_gram + PANELS * 8
    assert found.passes == 3 + PANELS
    assert isinstance(found.right, FiledFactor)


def test_signs_are_those_of_the_largest_entry_of_all_panels():
    right = np.asarray(panel_svd(rows(), **CUT).right)
    peaks = right[np.argmax(np.abs(right), axis=0), np.arange(RANK)]
    assert np.all(peaks > 0)


def test_killed_anywhere_it_ends_on_the_same_bits(pieces):
    undisturbed, saves = panel_svd(rows(), **CUT), Memory()
    panel_svd(rows(), checkpoint=saves, **CUT)
    assert saves.saves > PANELS * 7
    for killed_after in range(1, saves.saves + 1, 7):
        memory = Memory(die_after=killed_after)
        with pytest.raises(KeyboardInterrupt):
            panel_svd(rows(), checkpoint=memory, **CUT)
        memory.die_after = None
        resumed = panel_svd(rows(), checkpoint=memory, **CUT)
        assert np.array_equal(resumed.right, undisturbed.right), killed_after
        assert np.array_equal(resumed.left, undisturbed.left)
        assert np.array_equal(resumed.singular_values, undisturbed.singular_values)
        assert np.array_equal(resumed.residuals, undisturbed.residuals)


def blocks_asked(memory: Memory, **options) -> list[int]:
    asked, counted = [], rows()
    block = counted.block
    counted.block = lambda index: asked.append(index) or block(index)
    panel_svd(counted, checkpoint=memory, **CUT | options)
    return asked


def killed_in(panel: int, blocks: int) -> Memory:
    """What is left of a run killed after so many blocks of a panel, both counted from 0."""
    class Killed(Memory):
        def save(self, name, arrays):
            super().save(name, arrays)
            made = len(self.kept["panels"]["stops"]) if "panels" in self.kept else 0
            if name == "panel" and made == panel and arrays["place"][2] == blocks:
                raise KeyboardInterrupt

    memory = Killed()
    with pytest.raises(KeyboardInterrupt):
        panel_svd(rows(), checkpoint=memory, **CUT)
    memory.__class__ = Memory
    return memory


def test_neither_a_whole_panel_nor_what_is_summed_of_one_is_made_again():
    assert blocks_asked(killed_in(panel=2, blocks=3)) == [3, 4, 5, 6, 7, *range(8)]


def test_whole_panels_stay_where_later_ones_are_cut_otherwise():
    undisturbed = np.asarray(panel_svd(rows(), **CUT).right)
    memory = killed_in(panel=2, blocks=3)
    assert blocks_asked(memory, panel_rows=100) == [*range(8)] * 2
    assert memory.kept["panels"]["stops"].tolist() == [150, 300, 400, 500]
    found = panel_svd(rows(), checkpoint=memory, **CUT)
    assert np.asarray(found.right) == pytest.approx(undisturbed, abs=1e-6)


def test_a_panel_damaged_since_is_made_again_with_those_after_it():
    undisturbed = np.asarray(panel_svd(rows(), **CUT).right)
    memory = killed_in(panel=2, blocks=3)
    memory.files["right"].write(200, np.full((1, RANK), np.inf, np.float32))
    assert blocks_asked(memory) == [*range(8)] * 3
    assert np.array_equal(panel_svd(rows(), checkpoint=memory, **CUT).right, undisturbed)


def test_sums_damaged_since_are_made_again():
    memory = killed_in(panel=2, blocks=3)
    slot = int(memory.kept["panel"]["place"][3])
    memory.files["panel"].write(150 * slot, np.full((1, RANK), np.inf, np.float32))
    assert blocks_asked(memory) == [*range(8)] * 2


def test_a_save_never_overwrites_the_one_before_it(monkeypatch):
    class Seldom(Memory):
        """Due at each second block only."""
        asked, slots = 0, ()

        def due(self):
            self.asked += 1
            return self.asked % 2 == 0

        def save(self, name, arrays):
            super().save(name, arrays)
            if name == "panel":
                self.slots += (int(arrays["place"][3]),)

    memory = Seldom()
    panel_svd(rows(), checkpoint=memory, **CUT | {"panel_rows": P})
    assert memory.slots in ((0, 1, 0), (0, 1, 0, 1))


def projection(right, resident, read, checkpoint=None):
    """V W by groups of rows, in memory or in the checkpoint's file."""
    values = rows()

    def blocks(first):
        return panel_image_blocks(values, right, first, silent, "", resident_rows=resident, read_rows=read)

    if checkpoint is None:
        return in_memory(values, right, blocks(0))
    return in_file(values, right, blocks, checkpoint).read(0, N)


@pytest.mark.parametrize("resident", [1, 48, 1000])
@pytest.mark.parametrize("read", [37, 500, None])
def test_projection_is_that_by_the_whole_factor(resident, read):
    values, right = rows(), np.asarray(panel_svd(rows(), **CUT).right)
    exact = np.asarray(values._matrix, np.float64) @ right.astype(np.float64)
    found = projection(right, resident, read)
    assert found == pytest.approx(exact, abs=1e-6 * np.max(np.abs(exact)))
    # bits hang on how W is cut, never on how many rows are held
    assert np.array_equal(found, projection(right, 16, read))


def test_an_interrupted_projection_ends_on_the_same_bits():
    right = np.asarray(panel_svd(rows(), **CUT).right)
    undisturbed = projection(right, 32, 100)
    for killed_after in (1, 2, 3):
        memory = Memory(die_after=killed_after)
        with pytest.raises(KeyboardInterrupt):
            projection(right, 32, 100, memory)
        memory.die_after = None
        assert memory.kept["image"]["blocks"][0] == 2 * killed_after
        assert np.array_equal(projection(right, 32, 100, memory), undisturbed)


def test_rows_of_a_file_that_is_not_what_was_saved_are_made_again():
    right = np.asarray(panel_svd(rows(), **CUT).right)
    memory = Memory(die_after=2)
    with pytest.raises(KeyboardInterrupt):
        projection(right, 32, 100, memory)
    memory.die_after = None
    memory.files["image"].write(3, np.zeros((1, right.shape[1]), right.dtype))
    assert np.array_equal(projection(right, 32, 100, memory), projection(right, 32, 100))


def test_rounding_is_judged_alike_from_rows_and_factor_in_files():
    exact, which = rows()._matrix[::7].astype(np.float64) * (1 + 1e-5), np.arange(0, N, 7)
    filed = FiledRows(P)
    filed.append(exact[:3])
    filed.append(exact[3:])
    parts = panel_svd(rows(), **CUT)
    whole = parts._replace(right=np.asarray(parts.right))
    judged = with_rounding(parts, filed, which).errors
    assert np.array_equal(judged, with_rounding(whole, exact, which).errors)
    assert np.all(judged > 100 * parts.errors)


def test_a_filed_factor_reads_like_an_array():
    values = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    file = RowFile(3, np.float32)
    file.write(0, values)
    factor = FiledFactor(file, 20, np.array([1.0, 2.0, 4.0]), np.array([1.0, -1.0, 1.0]))
    expected = values / np.float32([1, -2, 4])[None, :]
    assert factor.shape == (20, 3)
    assert np.array_equal(factor, expected)
    for cut in (slice(3, 9), slice(18, 40), slice(9, 3), slice(None, -2)):
        assert np.array_equal(factor[cut], expected[cut])
    with pytest.raises(IndexError, match="a step of 2"):
        factor[::2]


class TestRefusals:
    def test_rank_above_the_matrix(self):
        with pytest.raises(RankError, match=r"rank=6 is not in 1\.\.min\(n, p\)=5; lower it"):
            panel_svd(DenseRows(np.ones((5, 9), np.float32)), rank=6, resident_rows=2, panel_rows=3)

    def test_zero_matrix(self):
        with pytest.raises(RankError, match="no score differs from the mean score"):
            panel_svd(DenseRows(np.zeros((20, 30), np.float32)), rank=3, resident_rows=4, panel_rows=9)

    def test_equal_rows_give_one_mode(self):
        found = panel_svd(DenseRows(np.ones((20, 30), np.float32)), rank=3, resident_rows=4, panel_rows=9)
        assert found.singular_values == pytest.approx([np.sqrt(600)], rel=1e-6)
        assert found.right.shape == (30, 1)
