"""The table of `infra/README.md`: fault, times tried, times survived; from the results beside this file.

    python -m tests.faults.table           writes it into the page
    python -m tests.faults.table --check   ends with 1 where the page says something else
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

RESULTS, PAGE = Path(__file__).parent / "results", Path(__file__).parents[2] / "infra/README.md"
LOAD = Path(__file__).parents[1] / "benchmarks/results/serve_load.json"
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"


def counted(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def requests(part: str, found: dict[str, Any]) -> tuple[int, int]:
    """Of one load, how many requests, and how many had a right answer or a refusal in order; none where a bound of
    `tests.benchmarks.serve_load` was not kept, on refusals, /health or memory."""
    if not all(found["kept"].values()):
        return found["requests"], 0
    wrong = found.get("wrong", 0) + found.get("traces", 0) + found.get("answers_of_several_lines", 0) + sum(
        count for status, count in found["statuses"].items()
        if not (status == "200" or status in ("429", "503") or (part == "malformed" and status.startswith("4"))))
    return found["requests"], found["requests"] - wrong


def lines() -> list[str]:
    """The table, a line each; every kind of fault with its counts."""
    operations, damage = counted("durable_operations"), counted("damage")
    tried: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    for row in operations["rows"]:
        stage = row["case"].partition(",")[0]
        label = {"single": f"each disk operation of `{stage}` fails or is the last before a power cut",
                 "compound": "a second such fault while the first is recovered from"}[row["faults"]]
        tried[label] += row["tried"]
        survived[label] += row["survived"]
    compound = "a second such fault while the first is recovered from"
    rows = [(label, tried[label], survived[label]) for label in [*(key for key in tried if key != compound), compound]]
    rows += [(f"a store of {damage['bytes'] / 1024:.0f} KiB: {row['fault']}", row["tried"], row["survived"])
             for row in damage["rows"]]
    killed = {"group": "the whole process group", "dvc": "dvc alone", "stage": "the running stage alone"}
    rows += [(f"SIGKILL at a random moment: {killed[row['fault']]}", row["tried"], row["survived"])
             for row in counted("kills")["rows"]]
    rows += [(f"{row['fault'].replace('group', 'the whole process group').replace('dvc', 'dvc alone')}",
              row["tried"], row["survived"]) for row in counted("stops")["rows"]]
    rows += [(f"files damaged at random, with intent: {row['reader']}", row["cases"],
              row["read"] + row["refused"]) for row in counted("fuzz")["rows"]]
    away = counted("servers")
    done = {"lost answer": "the answer to its n-th call to MLflow is lost, for each n",
            "broken": "MLflow answers 500 from its n-th call on, for a while",
            "slow": f"MLflow takes {away['slow_seconds']:g} s for each answer",
            "failing": f"MLflow answers 500 for {away['away_seconds']:g} s",
            "refused": f"MLflow refuses connections for {away['away_seconds']:g} s"}
    rows += [(f"{row['case']}: {done[row['fault']]}", row["tried"], row["survived"]) for row in away["rows"]]
    rows += [(row["fault"], row["tried"], row["survived"]) for name in ("outages", "ailing")
             for row in counted(name)["rows"]]
    rows += [(f"at once: {row['fault']}", row["tried"], row["survived"]) for row in counted("together")["rows"]]
    rows += [(row["fault"], row["tried"], row["survived"]) for row in counted("room")["rows"]]
    loads = json.loads(LOAD.read_text(encoding="utf-8"))
    rows += [(f"requests to `nfk serve`, {label}", *requests(part, loads[part])) for part, label in (
        ("steady", "64 clients"), ("overload", "256 clients that ask again at once"),
        ("tenfold", "ten times its capacity"), ("soak", "half an hour"), ("malformed", "malformed"))
        if part in loads]
    most = "" if operations["every"] == 1 else (
        f"Of the disk operations each {operations['every']}th point was tried for this table; "
        "`python -m tests.faults.enumerate` tries all.\n")
    return [*([most] if most else []), "| fault | times tried | times survived |", "|---|---:|---:|",
            *(f"| {label} | {one:,} | {other:,} |" for label, one, other in rows)]


def page(text: str) -> str:
    """The page with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE}: no {BEGIN} ... {END}")
    return "\n".join([f"{before}{BEGIN}", *lines(), f"{END}{after}"])


def main(check: Annotated[bool, typer.Option(help="compare only")] = False) -> None:
    text = PAGE.read_text(encoding="utf-8")
    if check:
        raise SystemExit(page(text) != text)
    PAGE.write_text(page(text), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
