"""Files are damaged at random, and with intent, before each reader: only its own one-line error may come of it.

    python -m tests.faults.fuzz                        every reader for 600 s, into tests/faults/results/fuzz.json
    python -m tests.faults.fuzz idx store --seconds 60 these, written too

The engine is atheris: libFuzzer, which keeps and changes further what reaches a branch of the product, or of a parser
under it, that no case reached before. Half of its changes are ours, which know the words of a format and where headers
are. Beside the loop of our own that it replaced, 60 s each on the same cores: cases per second of processor time 1,563
and 528 (idx), 649 and 106 (zip), 846 and 283 (png), 709 and 266 (store); lines reached 312 and 312, 1,076 and 1,072,
777 and 712, 205 and 205, and of params.yaml 1,785 and 1,395.

A reader runs in a process of its own, with 1 GiB of memory more than it began with, watched for what it does
(`tests.faults.fuzz_guard`). A case that takes more than 10 s ends it.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Annotated, Any

import typer

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

from tests.faults.fuzz_changes import changed, framed, unframed
from tests.faults.fuzz_readers import READERS, Parts, Reader

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
SECONDS_A_CASE = 10.0
_TRIES = 20
_ROOT = Path(__file__).parents[2]
_FOLLOWED = (
    f"{_ROOT}/nfk/", "/zipfile.py", "/tarfile.py", "/gzip.py", "/numpy/lib/format.py", "/numpy/lib/_format_impl.py",
    "/numpy/lib/_npyio_impl.py", "/scipy/io/", "/PIL/", "/werkzeug/", "/zarr/core/", "/ruamel/")
_LONGEST = 40_000
"""bytes of a case, as far as a seed is not longer"""


# --- one process, one reader ---


def _is_followed(code: CodeType) -> bool:
    return any(part in code.co_filename for part in _FOLLOWED)


@dataclass
class Lines:
    """The lines that were reached, of the product and of the parsers it calls."""

    seen: set[tuple[Any, int]] = field(default_factory=set)
    _followed: dict[Any, bool] = field(default_factory=dict)

    @contextmanager
    def followed(self) -> Iterator[None]:
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if (wanted := self._followed.get(code)) is None:
            wanted = self._followed[code] = _is_followed(code)
        return self._line if wanted else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        self.seen.add((frame.f_code, frame.f_lineno))
        return self._line


def write(folder: Path, files: Parts) -> None:
    """The files, and no others."""
    for entry in os.scandir(folder):
        shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
    for name, body in files.items():
        with suppress(OSError, ValueError):  # a name that no file system takes is no case
            path = folder / name
            if path.resolve().is_relative_to(folder.resolve()):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body)


def fault(reader: Reader, folder: Path) -> tuple[str, str]:
    """`read`, `refused` or what is wrong; with the message or the trace."""
    from tests.faults.fuzz_guard import Forbidden, wants_too_much

    try:
        reader.read(folder)
    except Forbidden as did:
        return f"did {str(did).partition(' ')[0]}", str(did)
    except reader.errors() as error:
        said = str(error)
        lines = said.split("\n") if reader.name == "params" else [said]  # a line a fault
        if wants_too_much(error):
            return f"memory: {_place(error)}", said
        if not said or not all(line.isprintable() and len(line) < 6000 for line in lines):
            return f"no plain line: {_place(error)}", repr(said)[:2000]
        return "refused", said
    except BaseException as error:
        return f"{type(error).__name__}: {_place(error)}", "".join(traceback.format_exception(error)[-6:])[-2000:]
    return "read", ""


def _place(error: BaseException) -> str:
    """The deepest line of the product."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/nfk/" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "outside"


def attempt(reader: Reader, parts: Parts, folder: Path, guard: Any) -> tuple[str, str]:
    """Build, write and read one case, watched."""
    write(folder, reader.build(parts))
    guard.seen.clear()
    with guard.armed():
        how, said = fault(reader, folder)
    return (f"did {guard.seen[0].partition(' ')[0]}", guard.seen[0]) if guard.seen else (how, said)


def child(name: str, seconds: float, seed: int, state: Path, memory: int) -> None:
    """Fuzz the reader; a line of JSON at the end. `state` has the case under way, the folder beside it those kept."""
    from tests.faults.fuzz_guard import Guard, limit_memory

    folder, reader = state / "case", READERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    guard = Guard(state)
    warnings = os.open(os.devnull, os.O_WRONLY)
    os.dup2(warnings, 2)  # libraries that warn of damage in C; the engine's own words
    seeds = reader.seeds()
    for parts in seeds:  # all is imported, and every seed is read, before the limits
        write(folder, reader.build(parts))
        how, said = fault(reader, folder)
        if how not in ("read", "refused"):  # a picture of another mode is refused
            print(f"{name}: a seed is not read: {how}: {said}", flush=True)
            raise SystemExit(1)
    import atheris

    # not by its import hook, which takes whole packages and nothing that was imported before
    for function in [each for each in gc.get_objects() if isinstance(each, FunctionType)]:
        if _is_followed(function.__code__):
            atheris.instrument_func(function)
    if memory:
        limit_memory(memory)
    _Rounds(reader, seeds, seconds, folder, guard, state / "now").run(seed)


class _Rounds:
    """One reader's cases, as the engine asks for them."""

    def __init__(self, reader: Reader, seeds: list[Parts], seconds: float, folder: Path, guard: Any, now: Path) -> None:
        self._reader, self._seeds, self._folder, self._guard, self._now = reader, seeds, folder, guard, now
        self._begun, self._seconds = time.monotonic(), seconds
        self._cases, self._ways, self._findings = 0, Counter[str](), dict[str, dict[str, Any]]()
        self._kept = now.parents[1] / "kept"

    def run(self, seed: int) -> None:
        """Does not return: the engine ends the process."""
        import atheris

        self._kept.mkdir(exist_ok=True)
        for number, parts in enumerate(self._seeds):
            (self._kept / f"seed-{number}").write_bytes(framed(parts))
        longest = max(_LONGEST, *(2 * len(framed(parts)) for parts in self._seeds))
        # time, memory and hanging are watched by us; a signal ends the process with it
        atheris.Setup(
            [sys.argv[0], str(self._kept), f"-seed={seed + 1}", f"-max_len={longest}", "-rss_limit_mb=0",
             "-malloc_limit_mb=0", "-timeout=86400", f"-artifact_prefix={self._now.parent}{os.sep}",
             *(f"-handle_{signal}=0" for signal in ("segv", "bus", "abrt", "ill", "fpe", "int", "term", "xfsz"))],
            self._case, custom_mutator=self._changed, internal_libfuzzer=True)
        atheris.Fuzz()

    def _changed(self, text: bytes, longest: int, seed: int) -> bytes:
        import atheris

        draw, parts = random.Random(seed), unframed(text)
        if not any(parts.values()) or draw.random() < 0.5:
            return framed(changed(draw, parts, self._seeds, self._reader))[:longest]
        name = draw.choice([name for name, body in parts.items() if body])
        room = longest - len(text)
        return framed({**parts, name: atheris.Mutate(parts[name], len(parts[name]) + max(room, 0))})[:longest]

    def _case(self, text: bytes) -> None:
        parts = unframed(text) or self._seeds[0]
        self._now.write_bytes(text)
        how, said = attempt(self._reader, parts, self._folder, self._guard)
        self._cases += 1
        self._ways[how if how in ("read", "refused") else "finding"] += 1
        if how not in ("read", "refused") and how not in self._findings:
            self._findings[how] = {"what": how, "said": said, "case": shown(text)}
        if time.monotonic() > self._begun + self._seconds:
            self._end()

    def _end(self) -> None:
        seconds, lines = time.monotonic() - self._begun, Lines()
        for file in sorted(self._kept.iterdir()):
            self._now.touch()
            with lines.followed():
                attempt(self._reader, unframed(file.read_bytes()), self._folder, self._guard)
        print(json.dumps({
            "reader": self._reader.name, "cases": self._cases, "seconds": round(seconds), "read": self._ways["read"],
            "refused": self._ways["refused"], "lines": len(lines.seen), "findings": list(self._findings.values())}),
            flush=True)
        os._exit(0)  # the engine has no other end but a finding of its own


def shown(text: bytes) -> dict[str, str]:
    """A case in the results."""
    return {name: base64.b64encode(body).decode() for name, body in unframed(text).items()}


# --- the processes, from outside ---


def fuzz(name: str, seconds: float, seed: int = 0, *, memory: int = 1 << 30) -> dict[str, Any]:
    """The result of a reader. A case that hangs or ends the process is a finding; what was kept till then is gone on
    with, by another seed, for the time that is left."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="nfk-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as at:
        left = seconds
        for tries in range(_TRIES):
            state = Path(at) / str(tries)
            state.mkdir()
            begun = time.monotonic()
            out, ended = _watched([
                sys.executable, "-m", "tests.faults.fuzz", name, "--seconds", str(left), "--seed",
                str(seed + 1000 * tries), "--inside", str(state), "--memory", str(memory)], state)
            if rows_of_it := [json.loads(line) for line in out.splitlines() if line.startswith("{")]:
                rows += rows_of_it
                break
            if not (state / "now").exists():
                raise RuntimeError(f"the process of {name} ended before it began: {ended}: {out[-2000:]}")
            rows.append({"cases": 0, "seconds": 0, "read": 0, "refused": 0, "lines": 0, "findings": [
                {"what": ended, "said": out[-1500:], "case": shown((state / "now").read_bytes())}]})
            left -= time.monotonic() - begun
            if left < 1:
                break
    return {"reader": name, **{key: sum(row[key] for row in rows) for key in ("cases", "seconds", "read", "refused")},
            "lines": max(row["lines"] for row in rows), "findings": [one for row in rows for one in row["findings"]]}


def _watched(command: list[str], state: Path) -> tuple[str, str]:
    """The child's output, and how it ended."""
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system",
                                "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (state / "out").open("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment,
                                   cwd=_ROOT)
        ended = ""
        while process.poll() is None:
            time.sleep(0.1)
            with suppress(FileNotFoundError):
                if time.time() - (state / "now").stat().st_mtime > SECONDS_A_CASE:
                    process.kill()
                    ended = f"hangs for more than {SECONDS_A_CASE:.0f} s"
        out.seek(0)
        return out.read(), ended or f"ended with {process.wait()}"


def kept(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results with those of readers that were not tried now."""
    now = {row["reader"] for row in rows}
    return sorted([*rows, *(row for row in before if row["reader"] not in now)],
                  key=lambda row: list(READERS).index(row["reader"]))


def main(
    readers: Annotated[list[str] | None, typer.Argument(help="none: all")] = None,
    seconds: Annotated[float, typer.Option(help="for each")] = 600.0,
    seed: int = 0,
    inside: Annotated[Path | None, typer.Option(hidden=True)] = None,
    memory: Annotated[int, typer.Option(hidden=True)] = 1 << 30,
) -> None:
    """Fuzz, print what was found, write the results."""
    if inside is not None and readers:
        try:
            child(readers[0], seconds, seed, inside, memory)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            raise
        return
    from tests.benchmarks.environment import environment

    for name in readers or READERS:
        row = fuzz(name, seconds, seed)
        print({key: value for key, value in row.items() if key != "findings"}, flush=True)
        for finding in row["findings"]:
            print(f"  {finding['what']}\n    {finding['said']}", flush=True)
        before = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
        RESULTS.write_text(json.dumps({"environment": environment(), "rows": kept([row], before)}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
