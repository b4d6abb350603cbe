"""Workers as jobs of a Slurm cluster, described by a YAML file for dask-jobqueue.

Example::

    jobs: 8            # how many jobs of one worker each
    cores: 8           # per job
    memory: 32GB       # per job
    walltime: "04:00:00"
    queue: gpu
    job_extra_directives: ["--gres=gpu:1"]

Every key but ``jobs`` is an argument of ``dask_jobqueue.SLURMCluster``.
"""

from __future__ import annotations

import inspect
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from samcancer.errors import InputError

_REQUIRED = ("jobs", "cores", "memory")

_OURS = ("processes", "n_workers", "asynchronous", "loop", "job_cls", "config_name", "name")
"""Arguments that are fixed here: a job is one worker, which does one case at a time."""

_MEMORY = ("MALLOC_TRIM_THRESHOLD_=67108864", "MALLOC_MMAP_THRESHOLD_=33554432")
"""Settings of glibc for workers: Dask's own one gives memory back at once, which takes as long
again as preparing a case."""

_LOOPBACK = "127.0.0.1"

_MEND = "see docs/cluster.md for an example"


@dataclass(frozen=True)
class SlurmJobs:
    """A file of --slurm, checked."""

    jobs: int
    settings: dict[str, Any]
    """Arguments of ``SLURMCluster``."""
    folder: Path
    """Of the file: the jobs see it, too."""


def read_slurm_file(path: Path) -> SlurmJobs:
    """Read and check the file.

    Raises:
        InputError: When it is missing, is no YAML mapping, lacks a key or has one that Slurm's
            cluster does not know, or dask-jobqueue is not installed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", path=path, mend="check --slurm") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fact = f"not a YAML file ({type(error).__name__})"
        raise InputError(fact, path=path, mend=_MEND) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError("is not a mapping of names to values", path=path, mend=_MEND)
    if missing := [name for name in _REQUIRED if name not in content]:
        raise InputError(f"lacks {', '.join(missing)}", path=path, mend=_MEND)
    jobs = content.pop("jobs")
    if type(jobs) is not int or jobs < 1:
        raise InputError(f"jobs must be a whole number from 1, got {jobs!r}", path=path, mend=_MEND)
    if unknown := sorted(content.keys() - _known_settings()):
        raise InputError(f"has unknown keys: {', '.join(unknown)}", path=path, mend=_MEND)
    return SlurmJobs(jobs, content, path.resolve().parent)


@contextmanager
def slurm_cluster(path: Path) -> Iterator[Any]:
    """Yield a cluster with its jobs submitted; leaving the block cancels them.

    Raises:
        InputError: When the file is not right, or Slurm is not there.
    """
    asked = read_slurm_file(path)
    with make_cluster(asked) as cluster:
        _require_accepted(cluster.job_script(), path)
        cluster.scale(jobs=asked.jobs)
        yield cluster


def make_cluster(asked: SlurmJobs) -> Any:
    """Return the cluster without any job.

    Dask runs what it is sent, so it asks for certificates made for this run. They lie beside the
    file of ``--slurm`` until the run ends, readable by the user alone.

    Raises:
        InputError: When they cannot be written there.
    """
    from dask_jobqueue.slurm import SLURMCluster

    settings = dict(asked.settings)
    one_case = ["--nthreads", "1"]  # the network inside uses the job's cores
    settings["worker_extra_args"] = [*settings.get("worker_extra_args", ()), *one_case]
    ours = [f"export OMP_NUM_THREADS={settings['cores']} {' '.join(_MEMORY)}"]
    settings["job_script_prologue"] = [*ours, *settings.get("job_script_prologue", ())]
    settings = {"security": True, "shared_temp_directory": str(asked.folder), **settings}
    of_scheduler = {"dashboard": False, "dashboard_address": f"{_LOOPBACK}:0"}
    settings["scheduler_options"] = {**of_scheduler, **settings.get("scheduler_options", {})}
    try:
        return SLURMCluster(**settings, processes=1)
    except OSError as error:
        raise InputError(
            f"--slurm: {error}", mend="set shared_temp_directory to a folder that all nodes see"
        ) from None


def _require_accepted(script: str, path: Path) -> None:
    """Ask Slurm whether it would take the job, without submitting it.

    Raises:
        InputError: In Slurm's words, when it would not, or when it is not there.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as file:
        file.write(script)
        file.flush()
        try:
            done = subprocess.run(  # noqa: S603 - our own script
                ["sbatch", "--test-only", file.name],  # noqa: S607 - where dask-jobqueue finds it
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            raise InputError(
                "--slurm: sbatch is not on this machine", mend="run this where jobs are submitted"
            ) from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise InputError(f"Slurm does not take the jobs ({said[0]})", path=path, mend=_MEND)


def _known_settings() -> set[str]:
    try:
        from dask_jobqueue.core import Job
        from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    except ImportError:
        raise InputError(
            "--slurm needs dask-jobqueue", mend="pip install 'samcancer[cluster]'"
        ) from None
    from dask_jobqueue.core import JobQueueCluster

    kinds = (Job, SLURMJob, JobQueueCluster, SLURMCluster)
    names = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}
    return names - {"self", "args", "kwargs", "job_kwargs", "scheduler", *_OURS}
