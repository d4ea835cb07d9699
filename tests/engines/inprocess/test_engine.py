"""What an engine leaves behind in the process that loads it."""

import subprocess
import sys

import pytest

LOADING = """
import asyncio
import os

import torch

from atts.config import ModelOptions
from atts.engines.inprocess.engine import InProcessEngine
from atts.models.model_files import model_folder

torch.set_num_threads(4)
before = len(os.listdir("/proc/self/task"))
options = ModelOptions(model="bundled/target")
engine = InProcessEngine.load(options, str(model_folder(options.model)))
print(len(os.listdir("/proc/self/task")) - before, torch.get_num_threads())
asyncio.run(engine.aclose())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_loading_leaves_no_threads_but_the_engine_s_own() -> None:
    """Others would take the cores from it, and have it wait for them at every operation."""
    done = subprocess.run(
        [sys.executable, "-c", LOADING], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "4"]
