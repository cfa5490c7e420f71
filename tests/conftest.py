"""What all tests share: the switch that writes golden files anew."""

from __future__ import annotations

import pytest


def pytest_addoption(parser):
    """`pytest --rewrite` regenerates golden files; commit only a difference you can explain."""
    parser.addoption("--rewrite", action="store_true", help="write the golden files anew")


@pytest.fixture
def golden(request):
    """Compare a text with a golden file, or write the file anew when asked to."""

    def compare(path, text):
        if request.config.getoption("--rewrite"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden file {path}: make it with pytest --rewrite"
        assert path.read_text(encoding="utf-8") == text, "run: pytest --rewrite, and read the difference"

    return compare
