"""Virtual time, the network and the trace."""

from __future__ import annotations

from smartbft.testing.network import NetworkOptions, SimulatedNetwork
from smartbft.testing.scheduler import Scheduler
from smartbft.testing.trace import Kind, TextTrace, Trace


def test_actions_run_by_time_and_then_in_the_order_of_scheduling():
    scheduler = Scheduler(0)
    seen = []
    for delay, name in ((20, "c"), (10, "a"), (20, "d"), (10, "b"), (0, "now")):
        scheduler.after(delay, seen.append, name)
    times = []
    while scheduler.run_next():
        times.append(scheduler.now)
    assert seen == ["now", "a", "b", "c", "d"]
    assert times == [0, 10, 10, 20, 20]
    assert scheduler.events == 5


def test_an_action_may_schedule_more():
    scheduler = Scheduler(0)
    seen = []

    def again(left):
        seen.append((scheduler.now, left))
        if left:
            scheduler.after(5, again, left - 1)

    scheduler.after(1, again, 2)
    while scheduler.run_next():
        pass
    assert seen == [(1, 2), (6, 1), (11, 0)]


def test_the_same_seed_draws_the_same_numbers():
    first, second = Scheduler(7), Scheduler(7)
    assert [first.between(3, 9) for _ in range(50)] == [second.between(3, 9) for _ in range(50)]
    assert {first.between(3, 9) for _ in range(500)} == set(range(3, 10))


def deliveries(options: NetworkOptions, count: int = 400, prepare=lambda network: None) -> list[int]:
    scheduler = Scheduler(1)
    network = SimulatedNetwork(scheduler, options)
    prepare(network)
    seen: list[int] = []
    for number in range(count):
        scheduler.after(number, lambda number: network.send(0, 1, seen.append, number), number)
    while scheduler.run_next():
        pass
    return seen


def test_a_quiet_network_delivers_each_packet_once():
    assert sorted(deliveries(NetworkOptions())) == list(range(400))


def test_loss_duplication_and_overtaking():
    assert 100 < len(deliveries(NetworkOptions(loss=0.5))) < 300
    assert 500 < len(deliveries(NetworkOptions(duplication=0.5))) < 700
    overtaken = deliveries(NetworkOptions(jitter=1, straggling=0.1))
    assert overtaken != sorted(overtaken)
    assert deliveries(NetworkOptions(jitter=1)) == list(range(400))


def test_cut_links_carry_nothing_until_mended():
    assert deliveries(NetworkOptions(), prepare=lambda network: network.partition((0, 2), (1,))) == []
    assert sorted(deliveries(NetworkOptions(), prepare=lambda network: network.cut(1, 0))) == list(range(400))

    def heal(network):
        network.cut(0, 1)
        network.heal()

    assert sorted(deliveries(NetworkOptions(loss=0.5), prepare=heal)) == list(range(400))


def test_the_trace_hash_covers_every_field_and_the_order():
    def digest(*events):
        trace = Trace()
        for event in events:
            trace.note(*event)
        return trace.digest()

    base = digest((1, Kind.MESSAGE, 2, 3), (2, Kind.TIMER, 0, 0))
    assert base == digest((1, Kind.MESSAGE, 2, 3), (2, Kind.TIMER, 0, 0))
    others = [
        digest((2, Kind.MESSAGE, 2, 3), (2, Kind.TIMER, 0, 0)),
        digest((1, Kind.REQUESTS, 2, 3), (2, Kind.TIMER, 0, 0)),
        digest((1, Kind.MESSAGE, 1, 3), (2, Kind.TIMER, 0, 0)),
        digest((1, Kind.MESSAGE, 2, 4), (2, Kind.TIMER, 0, 0)),
        digest((2, Kind.TIMER, 0, 0), (1, Kind.MESSAGE, 2, 3)),
    ]
    assert len({base, *others}) == 6


def test_a_long_trace_is_hashed_in_pieces_with_the_same_result():
    short, text = Trace(), TextTrace()
    for number in range(10_000):
        short.note(number, Kind.MESSAGE, 1, number)
        text.note(number, Kind.MESSAGE, 1, number, f"message {number}")
    assert short.digest() == text.digest() == short.digest()
    lines = list(text.lines())
    assert len(lines) == 10_000
    assert "message 17" in lines[17]
