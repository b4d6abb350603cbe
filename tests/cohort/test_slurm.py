"""Slurm jobs from a file: checked before anything starts, and the script that Slurm would get."""

from __future__ import annotations

from pathlib import Path

import pytest

from samcancer.cohort.slurm import make_cluster, read_slurm_file
from samcancer.errors import InputError

pytest.importorskip("dask_jobqueue", reason="--slurm needs the extra `cluster`")

GOOD = """
jobs: 4
cores: 6
memory: 24GB
queue: gpu
walltime: "02:00:00"
interface: lo
job_extra_directives: ["--gres=gpu:1"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "slurm.yaml"
    path.write_text(text)
    return path


def test_the_job_asks_slurm_for_what_the_file_says_and_does_one_case_at_a_time(
    tmp_path: Path,
) -> None:
    asked = read_slurm_file(write(tmp_path, GOOD))
    assert asked.jobs == 4
    with make_cluster(asked) as cluster:
        script = cluster.job_script()
    lines = script.splitlines()
    for directive in ("-p gpu", "--cpus-per-task=6", "-t 02:00:00", "--gres=gpu:1"):
        assert f"#SBATCH {directive}" in lines
    (environment,) = [line for line in lines if line.startswith("export ")]
    assert environment.startswith("export OMP_NUM_THREADS=6 MALLOC_TRIM_THRESHOLD_=")
    (command,) = [line for line in lines if "dask_worker" in line or "dask worker" in line]
    # the last of a repeated option is the one that counts
    assert command.split("--nthreads ")[-1].split()[0] == "1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cores: 1\nmemory: 1GB\n", "slurm.yaml: lacks jobs"),
        ("jobs: 0\ncores: 1\nmemory: 1GB\n", "jobs must be a whole number from 1, got 0"),
        ("jobs: 1\ncores: 1\nmemory: 1GB\nqueu: a\n", "has unknown keys: queu"),
        ("jobs: 1\ncores: 1\nmemory: 1GB\nprocesses: 2\n", "has unknown keys: processes"),
        ("- jobs\n", "is not a mapping of names to values"),
        ("jobs: [\n", "not a YAML file"),
    ],
)
def test_a_file_that_is_not_right_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_slurm_file(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_slurm_file(tmp_path / "slurm.yaml")
