"""The simulator can fail: each safety rule, broken, is found within a stated number of steps."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, applied

from opensvc_hb.sim.campaign import run

STEPS = 25_000
"""Within so many steps of one run; most are found within a few hundred."""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_rule_is_found(mutant):
    """Without the clause some invariant fails, and with it the very same run is sound."""
    with applied(mutant):
        broken = run(mutant.profile, mutant.seed, STEPS, mutant.plots)
    assert broken.failure is not None, f"not found in {broken.tally.steps} steps: {mutant.clause}"
    whole = run(mutant.profile, mutant.seed, broken.tally.steps, mutant.plots)
    assert whole.failure is None, str(whole.failure.violation)
