"""Run one task per case, wherever the executor says; results come as they are ready.

In this process nothing of Dask is imported. The order of results is then that of the cases;
otherwise it is whatever the workers make of it, and the caller sorts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from samcancer.cohort.executor import (
    CaseWork,
    Executor,
    Item,
    Outcome,
    Outcomes,
    Result,
    RunError,
    State,
)
from samcancer.errors import InputError


def run_cases(
    work: CaseWork[State, Item, Result],
    items: Mapping[str, Item],
    *,
    executor: Executor,
    on_case: Callable[[str], None] = lambda _: None,
    on_steps: Callable[[int], None] = lambda _: None,
) -> Outcomes[Result]:
    """Yield the outcome of every case.

    The caller holds the lock of the output folder while it takes the outcomes.

    Args:
        work: What is done.
        items: Case id -> what the task is given; tasks begin in this order.
        executor: Where.
        on_case: Called with the case id when a case begins; again when it begins anew.
        on_steps: Called with the number of steps done since the last call.

    Raises:
        InputError: When the setup fails, or a cluster cannot be reached or is lost.
    """
    if not items:
        return
    if executor.in_process(len(items)):
        yield from _run_here(work, items, on_case, on_steps)
        return
    from samcancer.cohort.dask_run import run_on_dask

    yield from run_on_dask(work, items, executor=executor, on_case=on_case, on_steps=on_steps)


def _run_here(
    work: CaseWork[State, Item, Result],
    items: Mapping[str, Item],
    on_case: Callable[[str], None],
    on_steps: Callable[[int], None],
) -> Outcomes[Result]:
    state = work.setup()
    for case_id, item in items.items():
        on_case(case_id)
        try:
            outcome = Outcome(case_id, work.do(state, case_id, item, on_steps))
        except InputError as error:
            outcome = Outcome[Result](case_id, None, error)
        except RunError as error:
            raise error.args[0] from None
        yield outcome
