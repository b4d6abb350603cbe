"""Modules of tests are found by worker processes too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = str(Path(__file__).parent)
sys.path.append(HERE)
sys.path.append(str(Path(__file__).parents[1] / "data_prep"))  # for raw_data
os.environ["PYTHONPATH"] = os.pathsep.join([os.environ.get("PYTHONPATH", ""), HERE])
