"""The atlas as one HTML file: viewer, images and numbers inside it, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from nfk.atlas.content import Atlas
from nfk.atlas.sheet import Sheet, sheet

_HERE = Path(__file__).parent


def render(atlas: Atlas) -> str:
    """The page, a pure function of the atlas.

    Its policy (default-src 'none') lets a browser load nothing, whatever is in it. Size: 4.8 MB of plotly.js, 16/3 k
    bytes an image for its vector, and about 0.2 to 1 kB an image for its picture.
    """
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}  # keys in our order
    images = sheet(atlas.pixels)
    return environment.get_template("page.html").render(
        atlas=atlas, content=_content(atlas, images), sheet=base64.b64encode(images.webp).decode("ascii"),
        style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        # inside a script element only its end tag is read as HTML; <\/ is the same text to JavaScript
        viewer=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        script=Markup((_HERE / "page.js").read_text(encoding="utf-8")))


def _content(atlas: Atlas, images: Sheet) -> dict[str, Any]:
    return {
        "ids": atlas.ids.tolist(),
        "files": atlas.files,
        "embedding": _base64(atlas.embedding),
        "plane": _base64(atlas.plane),
        "shares": atlas.shares.tolist(),
        "sheet": {"columns": images.columns, "width": images.width, "height": images.height},
        "categories": {name: {"kinds": found.kinds, "values": found.values.tolist()}
                       for name, found in atlas.categories.items()},
        "measures": {name: {"meaning": found.meaning, "values": [
            round(value, 6) if math.isfinite(value) else None for value in found.values.tolist()]}
            for name, found in atlas.measures.items()},
    }


def _base64(values: Float[np.ndarray, "n d"]) -> str:
    """Row after row, little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")
