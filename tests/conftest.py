"""Figures of docs/reliability.md: a sample of each by default, all trials on request."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
from collections.abc import Iterator
from pathlib import Path

import pytest
from reliability_figures import FIGURES, Tally, append_line

WORKER_MODULES = [
    *("torch.utils.tensorboard", "lightning.fabric", "albumentations", "samcancer.training.run"),
    *("samcancer.training.pseudo_labels", "samcancer.inference.workers", "data_prep.prepare"),
    *("samcancer.evaluation.cases", "samcancer.cohort.worker", "distributed.nanny"),
]
"""What processes that tests start import."""

TALLY = pytest.StashKey[Tally]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("figures of docs/reliability.md")
    group.addoption("--figure", choices=sorted(FIGURES), help="run the tests of one figure only")
    group.addoption("--record-figures", type=Path, metavar="FILE", help="append JSON lines to FILE")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that counts trials as a sample and in full."""
    if "tally" not in metafunc.fixturenames:
        return
    figure = FIGURES[_name_and_part(metafunc.definition)[0]]
    in_full = pytest.param(
        figure.full, id="in full", marks=(pytest.mark.slow, pytest.mark.reliability)
    )
    sample = pytest.param(figure.sample, id="sample")
    metafunc.parametrize("tally", [sample, in_full], indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Count tests without trials for their figure too, and leave the others out if asked to."""
    wanted = config.getoption("figure")
    chosen = []
    for item in items:
        if item.path.name.startswith("test_catalogue"):
            item.add_marker(pytest.mark.figure("catalogue"))
        marked = item.get_closest_marker("figure") is not None
        if marked and "tally" not in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.reliability)
        if wanted is None or (marked and _name_and_part(item)[0] == wanted):
            chosen.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


@pytest.fixture(scope="session")
def _imported_once() -> None:
    """Let worker processes be forked from a server that has imported torch, whoever comes first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(WORKER_MODULES)
    multiprocessing.forkserver.ensure_running()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Counts the trials of the test at hand."""
    counted = Tally(request.param)
    request.node.stash[TALLY] = counted
    return counted


@pytest.fixture
def measurement(request: pytest.FixtureRequest) -> Tally:
    """Takes what the test at hand measures; the test is one trial."""
    counted = Tally(1)
    request.node.stash[TALLY] = counted
    return counted


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Record the result of a test that belongs to a figure and runs in full."""
    report = yield
    path = item.config.getoption("record_figures")
    if path is None or item.get_closest_marker("reliability") is None:
        return report
    if report.when == "call" or (report.when == "setup" and not report.passed):
        name, part = _name_and_part(item)
        counted = item.stash.get(TALLY, Tally(1))
        if "tally" not in item.fixturenames:
            counted.found = int(report.passed)
        append_line(
            path,
            figure=name,
            part=part,
            test=item.nodeid,
            outcome=report.outcome,
            tally=counted,
            seconds=call.duration,
        )
    return report


def _name_and_part(item: pytest.Item) -> tuple[str, str]:
    """Return the figure a test belongs to, and what of it the test tries: `{kind}, cut`."""
    marker = item.get_closest_marker("figure")
    if marker is None:
        raise pytest.UsageError(f"{item.nodeid} takes `tally` without a figure marker")
    name, part = (*marker.args, "")[:2]
    if name not in FIGURES:
        raise pytest.UsageError(f"{item.nodeid}: no figure {name!r}; choose from {list(FIGURES)}")
    given = getattr(item, "callspec", None)
    return name, part if given is None else part.format(**given.params)
