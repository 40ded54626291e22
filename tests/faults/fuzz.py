"""Files are damaged at random, and with intent, before each reader: only its own one-line error may come of it.

    python -m tests.faults.fuzz                        every reader for 600 s, into tests/faults/results/fuzz.json
    python -m tests.faults.fuzz idx store --seconds 60 these, written too

A reader runs in a process of its own, with 1 GiB of memory more than it began with, watched for what it does
(`tests.faults.fuzz_guard`). A case that takes more than 10 s ends it. What reaches a line of the product, or of a
parser under it, that no case reached before is kept and changed further.
"""

from __future__ import annotations

import base64
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
from types import FrameType
from typing import Annotated, Any

import typer

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

from tests.faults.fuzz_readers import READERS, Parts, Reader

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
SECONDS_A_CASE = 10.0
_NUMBERS = tuple(value.to_bytes(size, order) for size in (1, 2, 4, 8) for order in ("little", "big")
                 for value in (0, 1, 2**(8 * size - 1) - 1, 2**(8 * size - 1), 2**(8 * size) - 1))
_FOLLOWED = ("/nfk/", "/zipfile.py", "/tarfile.py", "/gzip.py", "/numpy/lib/", "/scipy/io/", "/PIL/", "/werkzeug/",
             "/zarr/core/", "/ruamel/")


# --- changes ---


def changed(draw: random.Random, parts: Parts, others: list[Parts], reader: Reader) -> Parts:
    """One to four changes of one part or its name."""
    found = dict(parts)
    if not found:
        return dict(others[0])
    name = draw.choice(sorted(found))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if reader.renames and draw.random() < 0.2:
            body = found.pop(name)
            name = _damaged(draw, name.encode(), [b""], reader.words).decode("utf-8", "replace")[:400].replace(
                "\0", "" if draw.random() < 0.9 else "\0")
            found[name] = body
        elif len(found) > 1 and draw.random() < 0.03:
            del found[name]
            return found
        else:
            found[name] = _damaged(draw, found[name], [other[key] for other in others for key in other], reader.words)
    return found


def _damaged(draw: random.Random, body: bytes, others: list[bytes], words: tuple[bytes, ...]) -> bytes:
    way, at = draw.randrange(8), draw.randrange(len(body) + 1)
    if draw.random() < 0.5:  # headers are at the ends
        at = draw.randrange(min(len(body), 160) + 1)
        at = len(body) - at if draw.random() < 0.4 else at
    if way == 0 and at < len(body):
        return body[:at] + bytes([body[at] ^ 1 << draw.randrange(8)]) + body[at + 1:]
    if way == 1:
        return body[:at]
    if way == 2:
        number = draw.choice(_NUMBERS)
        return body[:at] + number + body[at + len(number):]
    if way == 3:
        other = draw.choice(others)
        begin = draw.randrange(len(other) + 1)
        return body[:at] + other[begin:begin + draw.randrange(1, 400)] + body[at:]
    if way == 4 and words:
        word = draw.choice(words)
        return body[:at] + word + body[at + draw.choice((0, len(word))):]
    if way == 5:
        return body[:at] + body[at + draw.randrange(1, 40):]
    if way == 6:
        return body[:at] + body[max(0, at - draw.randrange(1, 200)):at] + body[at:]
    return body[:at] + draw.randbytes(draw.randrange(1, 9)) + body[at + draw.randrange(0, 9):]


# --- one process, one reader after another ---


@dataclass
class Lines:
    """The lines that were reached, of the product and of the parsers it calls."""

    seen: set[tuple[Any, int]] = field(default_factory=set)
    new: int = 0
    _followed: dict[Any, bool] = field(default_factory=dict)

    @contextmanager
    def followed(self) -> Iterator[None]:
        self.new = 0
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if (wanted := self._followed.get(code)) is None:
            wanted = self._followed[code] = any(part in code.co_filename for part in _FOLLOWED)
        return self._line if wanted else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        place = (frame.f_code, frame.f_lineno)
        if place not in self.seen:
            self.seen.add(place)
            self.new += 1
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


def child(names: list[str], seconds: float, seed: int, state: Path, memory: int) -> None:
    """Fuzz the readers; a JSON line each. `state` has the case under way."""
    from tests.faults.fuzz_guard import Guard, limit_memory

    folder = state / "case"
    folder.mkdir(parents=True, exist_ok=True)
    guard = Guard(state)
    warnings = os.open(os.devnull, os.O_WRONLY)
    os.dup2(warnings, 2)  # libraries that warn of damage in C
    corpora = {}
    for name in names:  # all is imported, and every seed is read, before the limits
        reader = READERS[name]
        corpora[name] = reader.seeds()
        for parts in corpora[name]:
            write(folder, reader.build(parts))
            how, said = fault(reader, folder)
            if how not in ("read", "refused"):  # a picture of another mode is refused
                print(f"{name}: a seed is not read: {how}: {said}", flush=True)
                raise SystemExit(1)
    if memory:
        limit_memory(memory)
    for name in names:
        print(json.dumps(_rounds(READERS[name], corpora[name], seconds, random.Random(f"{name} {seed}"), folder, guard,
                                 state / "now")), flush=True)


def _rounds(
    reader: Reader, corpus: list[Parts], seconds: float, draw: random.Random, folder: Path, guard: Any, now: Path
) -> dict[str, Any]:
    lines, ways, findings, begun, cases = Lines(), Counter[str](), {}, time.monotonic(), 0
    while time.monotonic() < begun + seconds:
        # a late one of the corpus reached what others did not
        parts = corpus[min(draw.randrange(len(corpus)), draw.randrange(len(corpus))) - 1]
        case = changed(draw, parts, corpus, reader)
        now.write_text(json.dumps({name: base64.b64encode(body).decode() for name, body in case.items()}))
        with lines.followed():
            how, said = attempt(reader, case, folder, guard)
        cases += 1
        ways[how if how in ("read", "refused") else "finding"] += 1
        if how not in ("read", "refused"):
            if how not in findings:
                findings[how] = {"what": how, "said": said, "case": json.loads(now.read_text())}
        elif lines.new and sum(map(len, case.values())) < 40_000:
            corpus.append(case)
    return {"reader": reader.name, "cases": cases, "seconds": round(time.monotonic() - begun), "read": ways["read"],
            "refused": ways["refused"], "lines": len(lines.seen), "findings": list(findings.values())}


# --- the processes, from outside ---


def fuzz(names: list[str], seconds: float, seed: int = 0, *, memory: int = 1 << 30) -> list[dict[str, Any]]:
    """The results of each reader; one that hangs or ends by a signal is a finding, and goes on with another seed."""
    found, left, tries, longest = [], list(names), 0, seconds
    with tempfile.TemporaryDirectory(prefix="nfk-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as at:
        while left and tries < 20:
            state = Path(at) / str(tries)
            state.mkdir()
            begun = time.monotonic()
            out, ended = _watched([
                sys.executable, "-m", "tests.faults.fuzz", *left, "--seconds", str(longest), "--seed",
                str(seed + 1000 * tries), "--inside", str(state), "--memory", str(memory)], state)
            rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
            found += rows
            left = left[len(rows):]
            if left:
                if not (state / "now").exists():
                    raise RuntimeError(f"the process of {left[0]} ended before it began: {out[-2000:]}")
                case = json.loads((state / "now").read_text())
                found.append({"reader": left[0], "cases": 0, "seconds": 0, "read": 0, "refused": 0, "lines": 0,
                              "findings": [{"what": ended, "said": out[-1500:], "case": case}]})
                if len(names) == 1:  # a reader that hangs often does not get its time again and again
                    longest = max(1.0, longest - (time.monotonic() - begun))
            tries += 1
    return found


def _watched(command: list[str], state: Path) -> tuple[str, str]:
    """The child's output, and how it ended."""
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system",
                                "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (state / "out").open("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment,
                                   cwd=Path(__file__).parents[2])
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
    names = readers or list(READERS)
    if inside is not None:
        try:
            child(names, seconds, seed, inside, memory)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            raise
        return
    from tests.benchmarks.environment import environment

    for name in names:
        rows = fuzz([name], seconds, seed)
        row = {**rows[0], **{key: sum(row[key] for row in rows) for key in ("cases", "seconds", "read", "refused")},
               "lines": max(row["lines"] for row in rows), "findings": [one for row in rows for one in row["findings"]]}
        print({key: value for key, value in row.items() if key != "findings"}, flush=True)
        for finding in row["findings"]:
            print(f"  {finding['what']}\n    {finding['said']}", flush=True)
        before = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
        RESULTS.write_text(json.dumps({"environment": environment(), "rows": kept([row], before)}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
