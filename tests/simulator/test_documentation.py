"""The examples of docs/simulator.md and docs/attacks.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

import pytest

from smartbft.testing import byzantine

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "simulator.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("simulator.md", 4), ("attacks.md", 4)])
def test_the_examples_run(name: str, count: int):
    examples = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    assert len(examples) == count
    names: dict[str, object] = {}
    with mock.patch.dict(byzantine.ATTACKS):  # what the examples add is gone afterwards
        for example in examples:
            exec(compile(example, f"docs/{name}", "exec"), names)


def test_every_property_is_on_the_page():
    source = Path(__file__).parents[2] / "src" / "smartbft" / "testing"
    text = "".join(path.read_text() for path in sorted(source.glob("*.py")))
    promises = set(re.findall(r'PropertyViolation\(\s*"([^"]+)"', text))
    assert len(promises) >= 12
    for promise in promises:
        assert promise in PAGE
