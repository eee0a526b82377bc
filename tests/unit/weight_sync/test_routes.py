"""Routes: the learner sends to few servers, and each of the others has a feeder of its kind."""

import collections
import random

import pytest

from megatron_rl.weight_sync.shards.routes import Load, feeders, places_in_chain


def server(kind="k", *, sent=None, received=100):
    return Load(kind=kind, sent=sent or {0: 100}, received=received)


def test_one_learner_rank_sends_to_one_server_of_its_size_and_these_make_a_chain():
    assert feeders({name: server() for name in "abcd"}) == {"b": "a", "c": "b", "d": "c"}


def test_a_learner_whose_ranks_send_half_of_a_shard_feeds_two_chains():
    loads = {name: server(sent={0: 50, 1: 50}) for name in "abcdef"}
    assert feeders(loads) == {"c": "a", "d": "b", "e": "c", "f": "d"}


def test_norms_that_one_rank_sends_besides_its_half_do_not_make_it_one_chain():
    loads = {name: server(sent={0: 51, 1: 49}) for name in "abc"}
    assert feeders(loads) == {"c": "a"}


def test_servers_that_draw_from_several_copies_of_the_learner_are_all_sent_to():
    copies = {name: server(sent={rank: 100}) for rank, name in enumerate("abcd")}
    assert feeders(copies) == {}
    assert feeders(copies | {"e": server(sent={0: 100})}) == {"e": "a"}


def test_servers_of_another_kind_are_a_chain_of_their_own():
    loads = {"a": server("x"), "b": server("y"), "c": server("x"), "d": server("y")}
    assert feeders(loads) == {"c": "a", "d": "b"}


def test_servers_that_are_to_be_alone_neither_pass_on_nor_are_passed_to():
    loads = {name: server() for name in "abcd"}
    assert feeders(loads, alone={"b"}) == {"c": "a", "d": "c"}
    assert feeders(loads, alone=set("abcd")) == {}


def test_a_single_server_and_none_have_no_feeder():
    assert feeders({"a": server()}) == {}
    assert feeders({}) == {}


@pytest.mark.parametrize("seed", range(50))
def test_every_server_hears_of_the_learner_once_and_feeds_one_at_most(seed):
    draw = random.Random(seed)
    loads = {
        f"s{i}": server(
            draw.choice("xyz"),
            sent={rank: draw.randrange(1, 100) for rank in draw.sample(range(8), 3)},
            received=draw.randrange(50, 200),
        )
        for i in range(draw.randrange(1, 40))
    }
    alone = {name for name in loads if draw.random() < 0.2}
    found = feeders(loads, alone=alone)
    assert max(collections.Counter(found.values()).values(), default=0) <= 1
    assert not alone & (found.keys() | set(found.values()))
    for name in loads:
        way = [name]
        while way[-1] in found:
            way.append(found[way[-1]])
            assert len(way) <= len(loads)  # no circle
        assert {loads[one].kind for one in way} == {loads[name].kind}
    # Every kind has a server that the learner sends to.
    heads = {loads[name].kind for name in loads.keys() - found.keys()}
    assert heads == {load.kind for load in loads.values()}


def test_places_are_those_of_servers_that_pass_on():
    found = places_in_chain({"b": "a", "c": "b", "e": "d"})
    assert found == {"a": (0, 3), "b": (1, 3), "d": (0, 2)}
