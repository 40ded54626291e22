"""The directive `parameters`: every key of params.yaml with its type, bounds, default and meaning, from the models."""

from __future__ import annotations

import inspect
import json
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from docutils import nodes
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}


def kind(annotation: Any, metadata: tuple[Any, ...] | list[Any] = ()) -> str:
    """The type and its bounds in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(arguments[0], [*arguments[1:], *metadata])
    if origin is Literal:
        words = " or ".join(f"`{value}`" for value in arguments)
    elif origin is tuple and arguments[-1:] == (Ellipsis,):
        words = f"list{_length(metadata)}, each a {kind(arguments[0])}"
    elif origin is tuple:
        words = f"list of {len(arguments)}, each a {kind(arguments[0])}" if arguments else "empty list"
    elif origin is dict:
        words = "mapping"
    elif origin is not None and (origin is Union or origin.__name__ == "UnionType"):
        words = ", or ".join(kind(one) for one in arguments)
    elif inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        words = f"the section `{annotation.__name__.removesuffix('Params').lower()}`"
    else:
        words = _WORDS.get(annotation, str(annotation))
    return ", ".join([words, *_bounds(metadata)])


def _bounds(metadata: tuple[Any, ...] | list[Any]) -> list[str]:
    found = []
    for one in metadata:
        inner = one.metadata if isinstance(one, FieldInfo) else [one]
        for constraint in inner:
            found += [f"{word} {getattr(constraint, name)}" for name, word in _BOUNDS.items()
                      if getattr(constraint, name, None) is not None]
            if pattern := getattr(constraint, "pattern", None):
                found.append(f"as `{pattern}`")
    return found


def _length(metadata: tuple[Any, ...] | list[Any]) -> str:
    """How many a list may hold."""
    inner = [constraint for one in metadata for constraint in (one.metadata if isinstance(one, FieldInfo) else [one])]
    least, most = (next((value for one in inner if (value := getattr(one, name, None)) is not None), None)
                   for name in ("min_length", "max_length"))
    return (f" of {least} to {most}" if most else f" of {least} or more") if least else ""


def rows(model: type[BaseModel]) -> list[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of each field; `model` is in the section's title."""
    return [(name, kind(field.annotation, field.metadata), _default(field), field.description or "")
            for name, field in model.model_fields.items() if name != "model"]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "must be given"
    if isinstance(field.default, BaseModel):
        return "as its own"
    return f"`{json.dumps(field.default)}`"


class Parameters(SphinxDirective):
    """`{parameters}`: what every run has; `{parameters} families`: one section for each kind of network."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        from nfk import family_params, params

        if self.arguments:
            models = {f"model: {name}": model for name, model in params.MODEL_PARAMS.items()} | {
                "model: package.module:function": family_params.CustomParams, "torch": family_params.TorchParams}
        else:
            models = {name: field.annotation for name, field in params.Params.model_fields.items()
                      if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)}
            models["theta: FAMILY"] = params.ThetaParams
        text = "\n\n".join(_section(title, model) for title, model in models.items())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _section(title: str, model: type[BaseModel]) -> str:
    lines = [f"## `{title}`", "", inspect.cleandoc(model.__doc__ or ""), "",
             "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, words, default, meaning in rows(model):
        cells = (f"`{name}`", words, default, meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("parameters", Parameters)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
