"""Addresses as they may be shown: without what only their servers should know."""

from __future__ import annotations

import re

__all__ = ["redacted"]

_LOGIN = re.compile(r"://[^\s'\"]*@")
_QUERY = re.compile(r"(://[^\s'\"?]*)\?[^\s'\"]*")


def redacted(text: str) -> str:
    """Text whose URLs have neither user nor password nor query, which may hold a password, too.

    Examples
    --------
    >>> redacted("postgresql://user:p@ss@host/db?password=x does not answer")
    'postgresql://***@host/db?*** does not answer'
    """
    return _QUERY.sub(r"\1?***", _LOGIN.sub("://***@", text)) if "://" in text else text
