"""The simulated server: exact against one step at a time, and nothing lost or made up."""

import asyncio
from collections.abc import Sequence
from itertools import groupby

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulation.step_by_step import Sent, finish_times

from atts.simulation.hardware import GPUS, Costs, Efficiency, SharedGpus
from atts.simulation.server import Scheduling, Server, SimulatedRequest, Usage
from atts.simulation.shapes import SHAPES
from atts.simulation.simulate import run_virtually

COSTS = Costs.of(SHAPES["qwq-32b"], GPUS["h200"], 1, Efficiency())
OF_EXPERTS = Costs.of(SHAPES["qwen3-30b-a3b"], GPUS["h200"], 1, Efficiency())
ROOM = 1_000_000

requests = st.builds(
    Sent,
    at=st.integers(0, 3_000).map(lambda milliseconds: milliseconds / 1_000),
    length=st.integers(2, 3_000),
    write=st.one_of(st.just(0), st.integers(1, 80)),
)


class Served(list[SimulatedRequest]):
    """Requests that are done, and what their server did."""

    usage: Usage
    left_in_use: int


def serve(sent: Sequence[Sent], server: Server) -> Served:
    """Send each request, of a chain of its own, at its time."""

    async def main() -> Served:
        loop = asyncio.get_running_loop()
        served = Served([new_request(number, each) for number, each in enumerate(sent)])
        in_order = sorted(served, key=lambda request: request.queued)
        # Those of one moment together: after a sleep the time may be a rounding error before it.
        for at, together in groupby(in_order, key=lambda request: request.queued):
            await asyncio.sleep(max(0.0, at - loop.time()))
            for request in together:
                request.queued = loop.time()
                server.submit(request)
        await asyncio.gather(*(request.future for request in served))
        served.usage = server.usage
        served.left_in_use = server._cache.in_use
        return served

    return run_virtually(main())


def new_request(number: int, sent: Sent) -> SimulatedRequest:
    return SimulatedRequest(
        chain=number,
        problem=-1 - number,
        prompt=1,
        ids=range(sent.length),
        scored_from=None if sent.write else sent.length // 2,
        write=sent.write,
        max_tokens=max(1, sent.write),
        last_id=-1,
        future=asyncio.get_running_loop().create_future(),
        queued=sent.at,
    )


def new_server(room: int = ROOM, costs: Costs = COSTS, **options: float | bool) -> Server:
    chosen = Scheduling.model_validate({"cache_tokens": room, **options})
    return Server(costs, chosen, SharedGpus())


def test_one_request_takes_what_the_formula_says() -> None:
    length, write = 1_000, 300
    c = COSTS
    prefill = c.step + c.row + length * c.token + c.logits + c.pair * length**2 / 2
    contexts = sum(range(length, length + write - 1))
    decode = (write - 1) * (c.step + c.row + c.weights) + contexts * c.context
    (request,) = serve([Sent(0.0, length, write)], new_server())
    assert request.first_token == pytest.approx(prefill, rel=1e-9)
    assert request.done == pytest.approx(prefill + decode + c.request, rel=1e-9)


@settings(max_examples=25)
@example([Sent(0.281, 169, 0), Sent(0.84, 61, 33), Sent(0.84, 173, 45)], False, 256, COSTS)
@given(
    st.lists(requests, min_size=1, max_size=12),
    st.booleans(),
    st.sampled_from([256, 8192]),
    st.sampled_from([COSTS, OF_EXPERTS]),
)
def test_it_agrees_with_one_step_at_a_time(
    sent: list[Sent], mixed: bool, chunk: int, costs: Costs
) -> None:
    served = serve(sent, new_server(costs=costs, mixed=mixed, chunk_tokens=chunk, reserved=0.0))
    expected = finish_times(sent, costs, chunk, mixed)
    assert [request.done for request in served] == pytest.approx(expected, rel=1e-6)


@settings(max_examples=25)
@given(st.lists(requests, min_size=1, max_size=30), st.integers(3_200, 9_000), st.booleans())
def test_no_token_is_lost_in_a_small_cache(sent: list[Sent], room: int, mixed: bool) -> None:
    served = serve(sent, new_server(room, mixed=mixed, max_running=7))
    usage = served.usage
    assert usage.requests == len(sent)
    assert usage.written_tokens == sum(each.write for each in sent)
    lengths = sum(each.length for each in sent)
    if usage.put_back:
        assert usage.computed_tokens + usage.cached_tokens > lengths
    else:
        assert usage.computed_tokens + usage.cached_tokens == lengths
    assert served.left_in_use == 0
    assert usage.peak_cache_tokens <= room
    assert usage.peak_running <= 7
    for request in served:
        assert request.queued <= request.started < request.first_token <= request.done


@given(st.lists(requests, min_size=1, max_size=15))
def test_the_same_requests_take_the_same_time(sent: list[Sent]) -> None:
    first, second = (serve(sent, new_server(10_000)) for _ in range(2))
    assert [request.done for request in first] == [request.done for request in second]
    assert first.usage == second.usage


@given(st.lists(requests, min_size=1, max_size=15))
def test_a_faster_gpu_is_not_slower(sent: list[Sent]) -> None:
    two = Costs.of(SHAPES["qwq-32b"], GPUS["h200"], 2, Efficiency())
    slow, fast = (serve(sent, new_server(costs=costs)) for costs in (COSTS, two))
    assert max(r.done for r in fast) <= max(r.done for r in slow) * 1.01


def test_a_full_cache_puts_the_newest_back_and_computes_it_again() -> None:
    sent = [Sent(0.0, 400, 500), Sent(0.001, 400, 500)]
    served = serve(sent, new_server(1_500, reserved=0.0))
    assert served.usage.put_back > 0
    assert served.usage.written_tokens == 1_000
    assert served[0].done < served[1].done


def test_room_is_reserved_for_what_a_request_may_write() -> None:
    sent = [Sent(0.0, 400, 500), Sent(0.001, 400, 500)]
    served = serve(sent, new_server(1_500, reserved=1.0))
    assert served.usage.put_back == 0
    assert served[1].started >= served[0].done - COSTS.request


async def follow_up(server: Server, ids: Sequence[int], **changes: object) -> SimulatedRequest:
    """A request, done: of chain 1, unless ``changes`` say otherwise."""
    loop = asyncio.get_running_loop()
    values = {
        "chain": 1,
        "scored_from": None,
        "write": 10,
        "max_tokens": 10,
        "last_id": 7,
    } | changes
    request = SimulatedRequest(
        problem=-1,
        prompt=20,
        ids=ids,
        future=loop.create_future(),
        queued=loop.time(),
        **values,  # type: ignore[arg-type]
    )
    server.submit(request)
    await request.future
    return request


def test_a_chain_finds_its_prefix_and_a_thrown_away_piece_does_not_count() -> None:
    async def main() -> list[int]:
        server = new_server()
        prompt = [0] * 20
        first = await follow_up(server, prompt)
        # The last token that was written has no keys and values yet.
        second = await follow_up(server, [*prompt, *[7] * 10], last_id=8)
        other = await follow_up(server, [*prompt, *[7] * 10, *[9] * 5], last_id=10)
        score = await follow_up(
            server, [*prompt, *[7] * 10, *[9] * 5, *[10] * 9, *[3] * 4], scored_from=44, write=0
        )
        return [request.cached for request in (first, second, other, score)]

    assert run_virtually(main()) == [0, 29, 30, 43]


def test_chains_of_a_problem_share_its_prompt() -> None:
    async def main() -> int:
        server = new_server()
        await follow_up(server, [0] * 20)
        return (await follow_up(server, [0] * 20, chain=2)).cached

    assert run_virtually(main()) == 19  # the last token is computed, to continue from


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.5, 1.5])
def test_an_aborted_request_gives_back_its_room(moment: float) -> None:
    async def main() -> tuple[Usage, int, float]:
        server = new_server()
        stays = new_request(0, Sent(0.0, 500, 100))
        goes = new_request(1, Sent(0.0, 8_500, 4_000))
        server.submit(stays)
        server.submit(goes)
        await asyncio.sleep(moment)
        server.abort(goes)
        await stays.future
        await asyncio.sleep(1.0)
        return server.usage, server._cache.in_use, stays.done

    usage, in_use, done = run_virtually(main())
    assert in_use == 0
    assert 100 <= usage.written_tokens < 300
    assert done < 4.0


def test_two_servers_of_one_gpu_take_twice_as_long_while_both_work() -> None:
    costs = COSTS._replace(request=0.0)

    async def main() -> tuple[float, float]:
        gpus = SharedGpus()
        options = Scheduling(cache_tokens=ROOM)
        short, long = (Server(costs, options, gpus) for _ in range(2))
        first = new_request(0, Sent(0.0, 100, 100))
        second = new_request(0, Sent(0.0, 100, 300))
        short.submit(first)
        long.submit(second)
        await asyncio.gather(first.future, second.future)
        return first.done, second.done

    short_done, long_done = run_virtually(main())
    (short_alone,) = serve([Sent(0.0, 100, 100)], new_server(costs=costs))
    (long_alone,) = serve([Sent(0.0, 100, 300)], new_server(costs=costs))
    assert short_done == pytest.approx(2 * short_alone.done, rel=1e-6)
    assert long_done == pytest.approx(long_alone.done + short_alone.done, rel=1e-6)
