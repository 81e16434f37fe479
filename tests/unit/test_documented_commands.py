"""Every command of README.md and docs/ is run by a test that is named here, or it is said why not.

Blocks marked `sh run` and `sh terminal` are typed as they stand by
tests/integration/test_quickstart.py, and are not listed. That the command line understands all
`node` commands is checked by test_docs.py. A test is taken to run a command when its file, or what
it imports, has all of the command's verbs and options.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator

import pytest
from test_docs import DEFINITION, PAGES, ROOT

BLOCK = re.compile(r"^```(\w*)( run| terminal)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
TYPED_PAGE = ROOT / "docs" / "quickstart.md"
SHELLS = ("sh", "bash", "console")
INNER = re.compile(r"\$\((node [^|)]*)")  # a command inside another
OPTION = re.compile(r"--?[a-z][a-z-]*")
IMPORT = re.compile(r"^from (?:tests\.nat\.)?(\w+) import", re.MULTILINE)

DAEMON = "integration/test_daemon.py::test_two_nodes_average_over_ipv6_and_one_stops_although_the_other_is_frozen"  # noqa: E501
DETACHED = (
    "integration/test_detached.py::test_a_ticket_alone_starts_a_node_that_outlives_its_terminal"
)
TESTNET = "integration/test_testnet.py::test_status_assemble_eval_generate_and_stop_work_on_a_running_swarm"  # noqa: E501
EXPERTS = "integration/test_isolated_experts.py::test_an_expert_is_fetched_assembled_withdrawn_and_offered_again"  # noqa: E501
EXCHANGE = "unit/test_hf_exchange.py::test_an_assembly_goes_out_and_comes_back_by_the_command_line"
CHANGES = "integration/test_run_changes_live.py::test_a_run_is_changed_paused_resumed_and_ended"
TICKETS = "integration/test_tickets.py::test_two_with_tickets_train_and_a_third_with_the_manifest_alone_does_not"  # noqa: E501
LIMITS = "integration/test_volunteer.py::test_a_limit_of_the_threads_holds_for_the_worker_at_once"
COMPOSE = (
    "compose/test_testnet.py::test_the_testnet_trains_behind_routers_survives_a_kill_and_answers"
)

# The first words of a command -> the tests that run it; the longest that fits counts.
RUN_BY: dict[str, tuple[str, ...]] = {
    "node start --run": (DAEMON,),
    "node start --join": (DETACHED, DAEMON),
    "node relay": ("nat/test_swarm_mode.py::test_the_swarm_outlives_all_its_bootstrap_nodes",),
    "node doctor": ("integration/test_doctor.py::test_beside_a_running_node_it_asks_that_node",),
    "node status": (
        "unit/test_cli_status.py::test_status_as_json_has_every_field_and_numbers_are_numbers",
    ),
    "node dashboard": (
        "integration/test_dashboard_live.py::test_the_screen_says_what_status_says_and_a_recorded_kill_is_seen_again",
    ),
    "node dashboard --replay": (
        "unit/test_dashboard.py::test_without_a_terminal_the_command_prints_a_moment_of_a_recording",
    ),
    "node contributions": (
        "unit/test_cli_status.py::test_contributions_are_told_as_a_table_and_as_json",
    ),
    "node logs": (DETACHED,),
    "node limits": (LIMITS,),
    "node assemble --run": (TESTNET,),
    "node assemble --base": (EXPERTS,),
    "node assemble --tune-router": (
        "unit/test_owner_commands.py::test_a_router_is_tuned_on_proxy_text_and_on_public_text",
    ),
    "node eval": (
        "integration/test_isolated_experts.py::test_every_study_of_an_assembly_has_its_numbers_and_plots",
    ),
    "node generate": (TESTNET,),
    "node export": (EXCHANGE,),
    "node import": (EXCHANGE,),
    "node base make": (EXPERTS,),
    "node expert train": (EXPERTS,),
    "node expert train --dp-epsilon": (
        "unit/test_owner_commands.py::test_what_was_spent_is_on_the_card_and_the_text_is_kept_from_others",
    ),
    "node expert proxies": (
        "unit/test_expert_proxies.py::test_the_command_writes_public_text_alone",
    ),
    "node expert show": (EXPERTS,),
    "node expert publish": (EXPERTS,),
    "node expert fetch": (EXPERTS,),
    "node expert withdraw": (EXPERTS,),
    "node run init": (
        "unit/test_cli_run_init.py::test_the_manifest_can_be_read_and_holds_the_initial_state",
    ),
    "node run init --from": (
        "unit/test_begun_with_model.py::test_what_the_run_begins_with_computes_what_the_assembly_did",
    ),
    "node run validate": (
        "unit/test_cli_run_change.py::test_a_manifest_that_is_in_order_is_said_to_be",
    ),
    "node run ticket": (TICKETS,),
    "node run set": (CHANGES,),
    "node run pause": (CHANGES,),
    "node run resume": (CHANGES,),
    "node run revoke": (TICKETS,),
    "node run end": (CHANGES,),
    "node run export": (
        "unit/test_node_run_file.py::test_what_was_exported_is_what_a_node_starts_from",
    ),
    "node run import": (
        "unit/test_node_run_file.py::test_what_was_exported_is_what_a_node_starts_from",
    ),
    "node testnet": (
        "chaos/test_testnet_chaos.py::test_a_testnet_under_chaos_commits_rounds_with_equal_hashes",
    ),
    "make demo": ("integration/test_demo.py::test_the_demo_succeeds_and_its_results_show_it",),
    "make testnet": (COMPOSE,),
    "docker compose": (COMPOSE,),
    "eval $(docker/engine.sh up": (COMPOSE,),
    "docker/engine.sh down": (COMPOSE,),
}

# The first words of a command -> why no test runs it.
NOT_RUN: dict[str, str] = {
    "make": "lists the targets",
    "make check": "the first thing that .ci/run does",
    "make test": "the second thing that .ci/run does",
    "make .venv/.installed": "what each other target needs and makes first",
    ". .venv/bin/activate": "of the shell",
    "mkdir -p": "of the shell",
    "docker compose --profile": "images of Prometheus and Grafana are only in a registry; "
    "the profile's files are read by test_both_compose_programs_accept_the_files",
    "install -D": "of coreutils; the unit's command line is read by test_systemd.py",
    "systemctl --user": "needs a user's systemd, which containers and CI have not",
    "loginctl enable-linger": "needs a user's systemd, which containers and CI have not",
    "pip install": "the extra is in what each target of make installs",
    ".venv/bin/python -c": "measures hivemind, nothing of this program",
}


def documented() -> Iterator[str]:
    """Commands of code blocks that no test types as they stand."""
    for page in PAGES:
        for language, typed, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if typed and page == TYPED_PAGE:
                continue
            for line in text.replace("\\\n", " ").splitlines():
                if language not in SHELLS and not line.startswith("node "):
                    continue
                if words := shlex.split(line, comments=True):
                    yield from INNER.findall(line) or [" ".join(words)]


def entry_of(command: str, keys: Iterable[str]) -> str | None:
    """The longest key whose verbs begin the command and whose options it has.

    A key of one word is of that command alone.
    """
    given = command.split()
    verbs = [word for word in given if not word.startswith("--")]

    def fits(key: str) -> bool:
        words = key.split()
        plain = [word for word in words if not word.startswith("--")]
        begins = verbs[: len(plain)] == plain and set(words) - set(plain) <= set(given)
        return begins and (len(words) > 1 or given == words)

    return max(filter(fits, keys), key=len, default=None)


def text_of(test: str) -> str:
    """A test's file with the helpers that it imports; empty when there is no such test."""
    name, _, function = test.partition("::")
    file = ROOT / "tests" / name
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if function not in DEFINITION.findall(text):
        return ""
    helpers = [file.with_name(f"{module}.py") for module in IMPORT.findall(text)]
    helpers += [ROOT / "node" / "testnet.py"] * ("node.testnet" in text)
    return "\n".join([text, *(h.read_text(encoding="utf-8") for h in helpers if h.exists())])


def words_not_in(text: str, command: str, key: str) -> list[str]:
    """Verbs and options of a `node` command that a test's text has not as strings."""
    words = [word for word in key.split()[1:] if not word.startswith("--")]
    words += [word for word in command.split() if OPTION.fullmatch(word)]
    return [word for word in words if f'"{word}"' not in text]


@pytest.mark.parametrize("command", sorted(set(documented())))
def test_a_documented_command_is_run_by_a_test_or_it_is_said_why_not(command: str) -> None:
    key = entry_of(command, [*RUN_BY, *NOT_RUN])
    assert key is not None, "name the test that runs it, or say why none does"
    if key in NOT_RUN:
        assert not command.startswith("node "), "one of ours, so it can be run"
        return
    texts = {test: text_of(test) for test in RUN_BY[key]}
    assert all(texts.values()), f"no such test: {[t for t in texts if not texts[t]]}"
    if command.startswith("node "):
        assert words_not_in("\n".join(texts.values()), command, key) == []


def test_no_entry_is_left_over() -> None:
    used = {entry_of(command, [*RUN_BY, *NOT_RUN]) for command in documented()}
    assert {*RUN_BY, *NOT_RUN} - used == set()


def test_the_checks_can_tell_right_from_wrong() -> None:
    assert entry_of("make tea", [*RUN_BY, *NOT_RUN]) is None
    assert entry_of("node expert bake law", RUN_BY) is None
    assert entry_of("node start --run R --join T", RUN_BY) is not None
    assert text_of(DAEMON) and not text_of(f"{DAEMON}_and_more")
    assert words_not_in(text_of(DAEMON), "node start --run R --rum", "node start") == ["--rum"]
