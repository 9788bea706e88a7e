"""The examples of docs/simulator.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_examples_run():
    assert len(EXAMPLES) == 4
    names: dict[str, object] = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/simulator.md", "exec"), names)


def test_every_property_is_on_the_page():
    source = Path(__file__).parents[2] / "src" / "smartbft" / "testing"
    text = "".join(path.read_text() for path in sorted(source.glob("*.py")))
    promises = set(re.findall(r'PropertyViolation\(\s*"([^"]+)"', text))
    assert len(promises) >= 12
    for promise in promises:
        assert promise in PAGE
