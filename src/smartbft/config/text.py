"""What editors and copies do to text files, in words."""

from __future__ import annotations

import codecs

_MARKS = (
    (codecs.BOM_UTF8, "begins with a byte order mark"),
    (codecs.BOM_UTF32_LE, "is UTF-32 text"),  # begins like UTF-16
    (codecs.BOM_UTF32_BE, "is UTF-32 text"),
    (codecs.BOM_UTF16_LE, "is UTF-16 text"),
    (codecs.BOM_UTF16_BE, "is UTF-16 text"),
)


def encoding_problem(content: bytes) -> str:
    """Why the content of a file is not the plain text that it should be; empty if nothing is known against it."""
    for mark, problem in _MARKS:
        if content.startswith(mark):
            return problem
    if b"\0" in content:
        return "has null bytes and is no text, or UTF-16"
    return ""
