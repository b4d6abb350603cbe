"""The job files run with stand-ins for Slurm, and what they call is read by our parsers."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from samcancer.config import Config

ROOT = Path(__file__).parents[1]
JOBS = sorted((ROOT / "cluster").glob("*.s*"))

STAND_IN = """#!{python}
import json, os, sys
name = os.path.basename(sys.argv[0])
with open(os.environ["CALLS"], "a") as stream:
    stream.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
if name == "sbatch":
    print(sum(1 for _ in open(os.environ["CALLS"])))
if sys.argv[1:3] == ["show", "hostnames"]:
    print("node1\\nnode2")
sys.exit(int(os.environ.get("STATUS", "0")) if name == "srun" else 0)
"""


def calls_of(
    job: str, folder: Path, *arguments: str, status: int = 0, **variables: str
) -> list[list[str]]:
    """Run a job file and return the commands of Slurm that it called, in order."""
    stand_ins = folder / "bin"
    stand_ins.mkdir()
    for name in ("srun", "sbatch", "scontrol"):
        (stand_ins / name).write_text(STAND_IN.format(python=sys.executable))
        (stand_ins / name).chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    paths = {"PATH": f"{stand_ins}:{os.environ['PATH']}", "CALLS": str(calls)}
    given = {"STORE": "a store", "RUNS": str(folder / "runs"), "STATUS": str(status), "GPUS": "2"}
    done = subprocess.run(
        ["bash", str(ROOT / "cluster" / job), *arguments],
        cwd=ROOT,
        env={**os.environ, **slurm, **paths, **given, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in calls.read_text().splitlines()]


def parsed(words: list[str]) -> argparse.Namespace:
    """Parse ``VERB options`` as the console command does."""
    module = importlib.import_module(f"samcancer.commands.{words[0].replace('-', '_')}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args(words[1:])


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.name)
def test_the_shell_can_read_every_file(job: Path) -> None:
    subprocess.run(["bash", "-n", str(job)], check=True)


def test_an_array_has_a_job_for_every_fold() -> None:
    assert f"#SBATCH --array=0-{Config().folds - 1}" in (ROOT / "cluster/folds.sbatch").read_text()


def test_a_fold_is_trained_with_the_number_of_its_job(tmp_path: Path) -> None:
    (call,) = calls_of("folds.sbatch", tmp_path, SLURM_ARRAY_TASK_ID="3")
    assert call[:2] == ["srun", "samcancer"]
    args = parsed(call[2:])
    assert (args.fold, args.devices, args.data) == (3, 2, Path("a store"))
    assert (ROOT / args.config).exists()
    assert not args.resume


@pytest.mark.parametrize(("job", "run"), [("folds.sbatch", "fold_1"), ("final.sbatch", "final")])
def test_a_job_that_starts_again_goes_on(job: str, run: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / run).mkdir(parents=True)
    (tmp_path / "runs" / run / "resume.pt").touch()
    (call,) = calls_of(job, tmp_path, SLURM_ARRAY_TASK_ID="1")
    assert parsed(call[2:]).resume


def test_a_job_that_was_asked_to_stop_comes_again_and_one_that_failed_does_not(
    tmp_path: Path,
) -> None:
    for status in (130, 2):
        (tmp_path / str(status)).mkdir()
    numbers = {"SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "1"}
    stopped = calls_of("folds.sbatch", tmp_path / "130", status=130, **numbers)
    assert stopped[1:] == [["scontrol", "requeue", "4700_1"]]
    failed = calls_of("folds.sbatch", tmp_path / "2", status=2, **numbers)
    assert [call[0] for call in failed] == ["srun"]


def test_pseudo_labels_read_the_folder_that_the_folds_wrote(tmp_path: Path) -> None:
    (call,) = calls_of("pseudo_labels.sbatch", tmp_path)
    assert parsed(call[2:]).runs == tmp_path / "runs"


def test_on_several_nodes_torchrun_starts_the_final_training(tmp_path: Path) -> None:
    from torch.distributed.run import get_args_parser

    *_, call = calls_of("final_nodes.sbatch", tmp_path)
    assert call[:3] == ["srun", "--kill-on-bad-exit=1", "torchrun"]
    launcher = get_args_parser().parse_args(call[3:])
    assert (launcher.nnodes, launcher.nproc_per_node) == ("2", "2")
    assert launcher.rdzv_endpoint == "node1:24711"
    assert launcher.module
    assert launcher.training_script == "samcancer"
    assert launcher.training_script_args[0] == "train-final"
    assert parsed(launcher.training_script_args).devices is None


@pytest.mark.parametrize(
    ("arguments", "final"), [([], "final.sbatch"), (["nodes"], "final_nodes.sbatch")]
)
def test_each_step_waits_for_the_one_before(
    arguments: list[str], final: str, tmp_path: Path
) -> None:
    folds, pseudo, last = calls_of("submit.sh", tmp_path, *arguments)
    assert folds[-1] == "cluster/folds.sbatch"
    assert (pseudo[-1], last[-1]) == ("cluster/pseudo_labels.sbatch", f"cluster/{final}")
    assert "--dependency=afterok:1" in pseudo
    assert "--dependency=afterok:2" in last
