"""Secrets stay out of tags, parameters, messages and the spool."""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "***"

# The user information of a URL, up to its last @; a password may hold an unescaped / in database URLs.
_USER_INFORMATION = re.compile(r"""(?<=://)(?:[^/\s"'@:]+:[^\s"']*|[^/\s"']*)@""")
_QUERY_SECRET = re.compile(
    r"""(?i)([?&](?:password|passwd|pwd|token|secret|api_?key|access_?key|sig|signature|x-amz-\w+)=)[^&\s"']+""")
_SECRET_VARIABLE = re.compile(r"(?i)(?:^|_)(?:PASSWORD|PASSWD|SECRET|TOKEN|KEY|CREDENTIALS|AUTH_STRING)$")
_SHORTEST_SECRET = 8  # shorter values occur in ordinary text by chance


def redact(text: str) -> str:
    """`text` without the user information and secret query values of URLs, and without the values of secret
    environment variables (named `..._PASSWORD`, `..._TOKEN`, `..._SECRET`, `..._KEY`, ...)."""
    for value in _secrets_of_the_environment():
        text = text.replace(value, HIDDEN)
    text = _USER_INFORMATION.sub(f"{HIDDEN}@", text)
    return _QUERY_SECRET.sub(rf"\g<1>{HIDDEN}", text)


def redact_tree(value: Any) -> Any:
    """A JSON value with every string in it, keys included, redacted."""
    match value:
        case str():
            return redact(value)
        case dict():
            return {redact(key): redact_tree(item) for key, item in value.items()}
        case list():
            return [redact_tree(item) for item in value]
        case _:
            return value


def _secrets_of_the_environment() -> list[str]:
    found = {value for name, value in os.environ.items()
             if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_SECRET}
    return sorted(found, key=len, reverse=True)  # the longest first: one secret may begin another
