"""A named experiment: which pipelines it runs, which of their numbers it compares, and with what of the paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nfk import params as parameters
from nfk.nearest import did_you_mean
from nfk.one_line import OneLine

FOLDER = Path("infra/experiments")
Size = Literal["cpu", "paper"]
_OWN_LISTS = ("families", "theta", "studies")


class ExperimentError(OneLine):
    """The experiment is not there, or its file is wrong; the message is one line."""


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Scale(_Spec):
    """One size at which it can be run: the pipelines by name, each a change of params.yaml, once for each seed."""

    expects: str = Field(description="how long, on what")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    parts: dict[parameters.Name, dict[str, Any]] = Field(min_length=1)


class Row(_Spec):
    """One number of each seed, by the keys that lead to it: of evaluation/FAMILY/metrics.json of a part's workspace, of
    evaluation/pixels.json (`PART:pixels:...`), or of studies/NAME/numbers.json.

    After `@` the component at which a spectrum is read, as in `gan:gan:spectrum.trained@100`."""

    name: str
    value: Annotated[str, Field(pattern=r"^[a-z0-9_-]+:(studies/)?[a-z0-9_-]+:[^@]+(@\d+)?$")]
    paper: str = "–"
    shown: Literal["percent", "number"] = "percent"
    size: Size | None = Field(None, description="the only size that has it")

    @property
    def part(self) -> str:
        return self.value.split(":")[0]

    def read(self, workspace: Path) -> float:
        """ExperimentError where the workspace has no such number."""
        _, subject, path = self.value.split(":", 2)
        keys, _, component = path.partition("@")
        file = workspace / (f"{subject}/numbers.json" if "/" in subject else "evaluation/pixels.json"
                            if subject == "pixels" else f"evaluation/{subject}/metrics.json")
        try:
            whole = found = json.loads(file.read_text(encoding="utf-8"))
            for key in keys.split("."):
                found = found[key]
            if component:
                found = found[whole["spectrum"]["components"].index(int(component))]
            return float(found)
        except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
            raise ExperimentError(f"{self.name}: {file} has no number at {path} ({type(error).__name__}); correct "
                                  "the row's value") from None


class Picture(_Spec):
    """A PNG file of a part's workspace, kept beside the results; of the first seed."""

    part: str
    file: Annotated[str, Field(pattern=r"^(evaluation|studies|models)/[a-z0-9_/-]+\.png$")]
    shows: str
    size: Size | None = Field(None, description="the only size that has it")


class Claim(_Spec):
    """Row `more` above row `than`, seed by seed; judged at the sizes that have both."""

    says: str
    more: str
    than: str


class Experiment(_Spec):
    """What infra/experiments/NAME.yaml holds."""

    title: str
    reproduces: str
    question: str
    sizes: dict[Size, Scale]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    claims: tuple[Claim, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: str = ""

    @model_validator(mode="after")
    def _names_are_known(self) -> Experiment:
        names = [row.name for row in self.rows]
        for claim in self.claims:
            for name in (claim.more, claim.than):
                if name not in names:
                    raise ValueError(f"claim {claim.says!r}: no row {name!r}")
        for size, scale in self.sizes.items():
            at = self.at(size)
            read = {row.part for row in at.rows} | {picture.part for picture in at.pictures}
            if unknown := read - scale.parts.keys():
                raise ValueError(f"sizes.{size}: no part {sorted(unknown)[0]!r}, which a row or a picture reads")
        return self

    def at(self, size: Size) -> Experiment:
        """What of it one size has."""
        rows = tuple(row for row in self.rows if row.size in (None, size))
        read = {row.name for row in rows}
        return self.model_copy(update={
            "rows": rows, "claims": tuple(claim for claim in self.claims if {claim.more, claim.than} <= read),
            "pictures": tuple(picture for picture in self.pictures if picture.size in (None, size))})


def names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> Experiment:
    """The experiment called `name`; ExperimentError for another name, or a file that is wrong."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if name not in names():
        raise ExperimentError(f"no experiment {name!r}{did_you_mean(name, names())}; there are "
                              f"{', '.join(names()) or 'none'} in {FOLDER}")
    file = FOLDER / f"{name}.yaml"
    try:
        content = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
        return Experiment.model_validate_json(json.dumps(content))
    except ValidationError as error:
        fault = error.errors()[0]
        raise ExperimentError(f"{file}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    # ValueError, TypeError: what JSON has not, a date for one
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ExperimentError(f"{file}: not valid YAML, or not plain: {' '.join(str(error).split())}") from None


def params_text(change: dict[str, Any], seed: int, base: Path = parameters.PARAMS_FILE) -> str:
    """params.yaml with the paper's Fisher vectors and `change` in it: sections are merged key by key; families, theta
    and studies, which are lists of the user's own, are replaced. ParamsError where the result cannot be used."""
    from ruamel.yaml import YAML

    content = YAML(typ="safe", pure=True).load(base.read_text(encoding="utf-8"))
    replaced = {"families": change["families"], "theta": change.get("theta", {})} if "families" in change else {}
    sections = {name: section for name, section in change.items() if name not in _OWN_LISTS}
    merged = content | {name: content.get(name, {}) | parameters.PAPER_VECTORS.get(name, {}) | sections.get(name, {})
                        for name in parameters.PAPER_VECTORS.keys() | sections} | replaced | {
        "studies": change.get("studies", {}), "seed": seed}
    parameters.parse(merged, source="experiment")
    return json.dumps(merged, indent=1)  # JSON is YAML
