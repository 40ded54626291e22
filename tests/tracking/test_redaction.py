from __future__ import annotations

import pytest

from nfk.tracking.redaction import redact, redact_tree


@pytest.mark.parametrize(("text", "expected"), [
    ("http://ann:pw@host:5000/x", "http://***@host:5000/x"),
    ("postgresql+psycopg://ann:p/w@db/x", "postgresql+psycopg://***@db/x"),
    ("https://ann:p@w@host/x", "https://***@host/x"),
    ("https://token@host", "https://***@host"),
    ("failed: http://a:b@h/x, then http://c:d@h/y", "failed: http://***@h/x, then http://***@h/y"),
    ("s3://bucket/key?token=abc&n=1", "s3://bucket/key?token=***&n=1"),
    ("http://host/x?X-Amz-Signature=abc", "http://host/x?X-Amz-Signature=***"),
])
def test_secrets_in_addresses_are_hidden(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize("text", [
    "sqlite:///mlflow.db", "http://127.0.0.1:5000/api", "svd@gan", "md5:0123abcd.dir", "/a/b@c", "a@b.org"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_values_of_secret_variables_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "correct horse battery")
    monkeypatch.setenv("SHORT_TOKEN", "svd")
    assert redact("said correct horse battery, correct horse, svd") == "said ***, ***, svd"


def test_every_string_of_a_tree_is_redacted() -> None:
    tree = {"http://a:b@h": [1, None, {"k": "http://a:b@h"}]}
    assert redact_tree(tree) == {"http://***@h": [1, None, {"k": "http://***@h"}]}
