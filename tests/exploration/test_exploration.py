"""Random schedules of the round protocol: what must never be, never is; and bugs would be seen.

A schedule is a run of two to five real protocol machines and newcomers through messages that are
late, lost, doubled and overtaken, through crashes between any two effects, freezes, cuts, damaged
and full disks, members who leave and come back, or change their minds, and a run that is changed
and paused; after which all is healed (see world.py, accidents.py, oracle.py). A failure prints its
seed; its story is told by

    python tests/exploration/explore.py --story SEED
"""

import pytest
from explore import Findings, explore, explore_in_processes, story
from mutations import MUTATIONS
from oracle import Violation
from schedule import Schedule, shrink
from world import World

SCHEDULES = 100_000
QUICK = 1500
CATCHES = 3000  # schedules within which each deliberate bug is caught

# How many schedules of a thousand must come to each of these, so that they are explored at all.
COVERED = {
    "commit FULL": 500,
    "commit PARTIAL": 200,
    "commit SKIPPED": 3,
    "commit FOUNDED": 50,
    "commit after several attempts": 150,
    "commit with newcomers": 100,
    "commit with resignations": 50,
    "record proposed again": 20,
    "branch founded": 10,
    "merge": 30,
    "crash": 300,
    "damaged disk": 20,
    "left": 80,
    "stayed": 5,
    "helped without a vote": 20,
    "commit with a change": 20,
}


def assert_nothing_broke(findings: Findings) -> None:
    for seed, rule in findings.broken.items():
        pytest.fail(f"{story(seed, tries=500)}\n\nseed {seed}: {rule}")
    for what, least in COVERED.items():
        per_thousand = 1000 * findings.seen[what] / findings.schedules
        assert per_thousand >= least, f"{what}: only in {per_thousand:.1f} of 1000 schedules"


def test_no_schedule_breaks_a_rule():
    assert_nothing_broke(explore(range(QUICK)))


@pytest.mark.parametrize(
    "seed",
    [
        25419,  # a founder leads a ballot again, as its disk lost what it had promised
        30357,  # a branch that fewer found than had resigned
    ],
)
def test_a_schedule_that_found_a_bug_breaks_no_rule_any_more(seed):
    findings = explore([seed])
    assert findings.schedules == 1 and not findings.broken


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_no_schedule_of_many_breaks_a_rule():
    findings = explore_in_processes(0, SCHEDULES)
    print(f"{findings.schedules} schedules in {findings.seconds:.0f} s")
    assert_nothing_broke(findings)
    assert findings.schedules == SCHEDULES


@pytest.mark.heavy
@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_the_exploration_catches(name):
    with MUTATIONS[name]():
        findings = explore(range(CATCHES))
    print(f"caught after {findings.schedules} schedules: {findings.broken}")
    assert findings.broken
    assert not any("breaks:" in rule for rule in findings.broken.values())  # it is a bug, no error


def test_a_seed_gives_the_same_run_each_time():
    def run(seed):
        world = World(Schedule.random(seed), telling=True)
        world.run()
        return world.story

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_a_script_repeats_the_run_that_it_was_taken_from():
    with MUTATIONS["a new leader ignores what was accepted before"]():
        seed = next(iter(explore(range(CATCHES)).broken))
        schedule = Schedule.random(seed)
        with pytest.raises(Violation) as first:
            World(schedule).run()
        with pytest.raises(Violation) as second:
            World(Schedule.replay(schedule.script)).run()
    assert first.value.rule == second.value.rule
    assert first.value.world.now == second.value.world.now


def test_a_story_is_cut_down_to_what_matters():
    script = {number: True for number in range(100)}
    assert set(shrink(script, lambda s: 17 in s and 71 in s)) == {17, 71}
