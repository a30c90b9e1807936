"""Work is shared by processes: each piece by one, and the answer of the main one by all."""

from __future__ import annotations

import json

import pytest
from process_groups import IN_PROCESSES

from detect.errors import ConfigError
from detect.loading.sharing import from_main, gather, own_share, rank_and_count

SHARED = """
import json
from detect.errors import ConfigError
from detect.loading.sharing import from_main, gather, own_share, rank_and_count

def body(rank):
    assert rank_and_count() == (rank, int(sys.argv[1]))
    gathered = gather([(rank, number) for number in own_share(7)])
    say(json.dumps([rank, gathered, from_main(lambda: [rank])]))
    distributed.barrier()

def refused():
    raise ConfigError("no")

in_processes(int(sys.argv[1]), body)
in_processes(2, lambda rank: from_main(refused))
"""


@pytest.mark.parametrize("count", [2, 3])
def test_every_number_belongs_to_one_process_and_what_is_gathered_is_ordered_by_rank(fresh_python, count):
    *lines, first, second = fresh_python(IN_PROCESSES + SHARED, count).splitlines()
    gathered = {rank: (pairs, answer) for rank, pairs, answer in map(json.loads, lines)}
    expected = [[rank, number] for rank in range(count) for number in range(7) if number % count == rank]
    assert gathered == {rank: (expected if rank == 0 else [], [0]) for rank in range(count)}
    assert sorted([first, second]) == ["0 ConfigError: no", "1 ConfigError: no"]


def test_without_other_processes_all_work_is_ones_own():
    def refused() -> None:
        raise ConfigError("no")

    assert rank_and_count() == (0, 1)
    assert (list(own_share(3)), list(own_share(0))) == ([0, 1, 2], [])
    assert (gather(["a"]), gather([]), from_main(lambda: "b")) == (["a"], [], "b")
    with pytest.raises(ConfigError, match="no"):
        from_main(refused)
