"""What the acceptance tests share."""

import shutil
from pathlib import Path

import pytest

from tests.support.processes import ROOT


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples of what comes in, without what is expected to go out."""
    ignore = shutil.ignore_patterns("expected")
    return Path(
        shutil.copytree(ROOT / "sample_files", tmp_path_factory.mktemp("samples") / "sample_files", ignore=ignore)
    )
