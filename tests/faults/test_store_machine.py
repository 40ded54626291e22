"""A store and its scratch under any sequence of what may happen to them, against a model of three variables."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nfk import durable, store
from nfk.store import Scratch, StoreError
from tests.faults.disk import CUTS, FAILURES, Fault, FaultyDisk, PowerCut

PLACES, BLOCK = st.integers(1, 70), 3


class StoreMachine(RuleBasedStateMachine):
    """The model: which contents the store may have (more than one after a fault inside an operation, until it is read;
    None: none), the rows of the writer at work, and what the scratch may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="nfk-machine-"))
        self.path = self.root / "disk/stores/s.zarr"
        self.real = durable.disk
        self.contents: set[tuple[int, ...] | None] = {None}
        self.kept: set[int | None] = {None}
        self.writer: Any = None
        self.rows: list[int] = []
        (self.root / "disk").mkdir()
        self.start()

    def start(self, fault: Fault | None = None) -> FaultyDisk:
        shutil.rmtree(self.root / "aside", ignore_errors=True)
        (self.root / "aside").mkdir()
        durable.disk = self.disk = FaultyDisk(self.root / "disk", self.root / "aside", fault)
        return self.disk

    def teardown(self) -> None:
        self.end_writer(KeyboardInterrupt())
        durable.disk = self.real
        shutil.rmtree(self.root)

    def end_writer(self, how: BaseException) -> None:
        if self.writer is not None:
            with suppress(type(how)):
                self.writer.__exit__(type(how), how, None)
        self.writer, self.rows = None, []

    # --- the store ---

    @precondition(lambda self: self.writer is None)
    @rule()
    def create(self):
        self.writer = store.write(self.path, inputs={"data": "d"})
        self.filling = self.writer.__enter__()

    @precondition(lambda self: self.writer is not None)
    @rule(number=st.integers(0, 99))
    def append_block(self, number):
        self.filling.put(f"block{len(self.rows)}", np.full(BLOCK, number, np.int32))
        self.rows.append(number)

    @precondition(lambda self: self.writer is not None)
    @rule()
    def commit(self):
        rows, writer, self.writer = tuple(self.rows), self.writer, None
        writer.__exit__(None, None, None)
        self.rows, self.contents = [], {rows}

    @precondition(lambda self: self.writer is not None)
    @rule(at=PLACES, kind=st.sampled_from((*CUTS, *FAILURES)))
    def commit_with_a_fault(self, at, kind):
        self.disk.fault, self.disk.met = Fault(self.disk.count + at, kind), False
        rows, writer, self.writer = tuple(self.rows), self.writer, None
        try:
            writer.__exit__(None, None, None)
        except PowerCut:
            # the former is aside between two renames, and back with the next writer
            self.contents = {*self.contents, rows, None}
        except OSError:
            self.contents = {*self.contents, rows}
        else:
            self.contents = {rows}
        self.rows = []
        self.restart()

    @precondition(lambda self: self.writer is not None)
    @rule()
    def abandon(self):
        self.end_writer(KeyboardInterrupt())

    @precondition(lambda self: self.writer is not None)
    @rule()
    def a_concurrent_writer_is_refused(self):
        try:
            with store.write(self.path, inputs={}) as writer:
                writer.put("intruder", np.zeros(1))
        except StoreError as error:
            assert "another process is writing it" in str(error)
        else:
            raise AssertionError("two writers at once")

    @rule()
    def delete(self):
        durable.remove_tree(self.path)
        if self.path.parent.is_dir():
            durable.sync(self.path.parent)
        # one that was being replaced when the power went may still be aside
        self.contents = {None} if len(self.contents) == 1 else self.contents | {None}

    @rule()
    def read(self):
        found = self.found()
        assert found in self.contents, (found, self.contents)
        if found is not None or len(self.contents) == 1:
            self.contents = {found}

    def found(self) -> tuple[int, ...] | None:
        try:
            opened = store.read(self.path)
        except StoreError as error:
            assert "no such store" in str(error), error
            return None
        values = [opened[f"block{place}"][:] for place in range(len(opened.arrays))]
        assert all(len(set(block)) == 1 and len(block) == BLOCK for block in values)
        return tuple(int(block[0]) for block in values)

    # --- the power ---

    @rule(kind=st.sampled_from(CUTS))
    def crash(self, kind):
        with suppress(PowerCut):
            self.disk.cut_now(kind)
        self.restart()

    def restart(self) -> None:
        """The next process: locks of the former are free."""
        if self.disk.cut:
            self.end_writer(PowerCut())
        self.start()

    @precondition(lambda self: self.writer is not None)
    @rule(kind=st.sampled_from(CUTS))
    def crash_after_commit(self, kind):
        self.commit()
        self.crash(kind)
        self.read()

    # --- the scratch ---

    @property
    def scratch(self) -> Scratch:
        return Scratch(self.root / "disk/private/scratch/work")

    @rule(number=st.integers(0, 99))
    def save(self, number):
        self.scratch.save("state", {"number": np.array([number])})
        self.kept = {number}

    @precondition(lambda self: self.writer is None)
    @rule(number=st.integers(0, 99), at=st.integers(1, 14), kind=st.sampled_from((*CUTS, *FAILURES)))
    def save_with_a_fault(self, number, at, kind):
        self.disk.fault = Fault(self.disk.count + at, kind)
        try:
            self.scratch.save("state", {"number": np.array([number])})
        except (PowerCut, OSError):
            self.kept = self.kept | {number}
        else:
            self.kept = {number}
        self.restart()

    @rule()
    def resume(self):
        found = self.scratch.load("state")
        number = None if found is None else int(found["number"][0])
        assert number in self.kept, (number, self.kept)
        self.kept = {number}

    @rule()
    def clear(self):
        self.scratch.clear()
        with suppress(FileNotFoundError):
            durable.sync(self.root / "disk/private/scratch")
        self.kept = {None}

    @invariant()
    def nothing_half_is_visible(self):
        visible = {entry.name for entry in self.path.parent.iterdir()} if self.path.parent.is_dir() else set()
        assert all(name == "s.zarr" or name.endswith(".partial") for name in visible)
        if self.path.is_dir():
            assert (self.path / store.MARKER).is_file()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=100, stateful_step_count=25, deadline=None,
                                     suppress_health_check=list(HealthCheck))
