"""Who may copy which sources: whatever the order of puts and listings, never do two copy the same."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Generator
from typing import Any

import pytest

from omewd.copier.parts.acquisition import common_of, difference, whole_of
from omewd.copier.parts.claims import Claim, Step, decide, is_settled
from tests.support.parts import part_spec

NAMES = {0: "DAPI", 1: "GFP", 2: "RFP"}
ACQUISITION: dict[str, Any] = {"dtype": "uint16"}
OTHER: dict[str, Any] = {"dtype": "uint8"}


def claim(epoch: int, *sources: int, acquisition: dict[str, Any] = ACQUISITION, host: str = "") -> Claim:
    return Claim(epoch=epoch, sources=sources, acquisition=acquisition, host=host)


def settled(*claims: Claim) -> dict[int, int]:
    return {element: each.epoch for each in claims for element in each.sources}


def test_parts_of_other_sources_are_not_in_the_way() -> None:
    mine, other = claim(7, 0), claim(5, 1, 2)
    assert decide(mine, [], {}, None, NAMES).step is Step.SETTLE
    assert decide(mine, [other], settled(other), ACQUISITION, NAMES).step is Step.SETTLE
    assert decide(mine, [other], {}, None, NAMES).step is Step.SETTLE


def test_who_has_settled_is_never_in_doubt() -> None:
    first, second = claim(7, 0), claim(5, 0, 1, host="left")
    owners = settled(first)
    assert decide(first, [second], owners, ACQUISITION, NAMES).step is Step.SETTLE
    lost = decide(second, [first], owners, ACQUISITION, NAMES)
    assert (lost.step, lost.why) == (Step.LOST, "source 'DAPI' is copied there by a dataset of epoch 7")
    lost = decide(first, [second], settled(second), ACQUISITION, NAMES)
    assert (lost.step, lost.why) == (Step.LOST, "source 'DAPI' is copied there by a dataset of epoch 5 on left")


def test_of_two_that_have_not_settled_the_higher_epoch_has_lost_and_the_lower_waits() -> None:
    low, high = claim(5, 1), claim(7, 1, 2)
    assert decide(high, [low], {}, None, NAMES).step is Step.LOST
    assert decide(low, [high], {}, None, NAMES).step is Step.WAIT
    assert decide(low, [high], {2: 7}, ACQUISITION, NAMES).step is Step.WAIT  # it is settling
    assert decide(low, [high], settled(high), ACQUISITION, NAMES).step is Step.LOST


def test_another_acquisition_is_in_the_way_whatever_its_sources_are() -> None:
    mine, other = claim(5, 0), claim(7, 1, acquisition=OTHER)
    assert decide(mine, [other], {}, None, NAMES).step is Step.WAIT
    lost = decide(other, [mine], {}, None, NAMES)
    assert lost.step is Step.LOST
    assert "dtype is 'uint8' here and 'uint16' there" in lost.why
    lost = decide(mine, [], {}, OTHER, NAMES)
    assert lost.step is Step.LOST
    assert "dtype is 'uint16' here and 'uint8' there" in lost.why


class Store:
    """Claims and owners, as a store holds them.

    ``conditional``: an object is only put where there is none. ``lags``: a listing may lack what was put since.
    """

    def __init__(self, *, conditional: bool, lags: bool) -> None:
        self.claims: dict[int, Claim] = {}
        self.owners: dict[int, int] = {}
        self.acquisition: dict[str, Any] | None = None
        self.conditional, self.lags = conditional, lags

    def own(self, element: int, epoch: int) -> None:
        if not (self.conditional and element in self.owners):
            self.owners[element] = epoch

    def settle(self, acquisition: dict[str, Any]) -> None:
        if not (self.conditional and self.acquisition is not None):
            self.acquisition = acquisition


def steps(store: Store, mine: Claim, outcome: dict[int, str]) -> Generator[None]:
    """What a part does, one request after another, until it copies or has lost; it tries again a few times to wait."""
    for _ in range(6):
        old = list(store.claims.values())
        store.claims[mine.epoch] = mine
        yield
        owners = dict(store.owners)
        yield
        others = [each for each in (old if store.lags else store.claims.values()) if each.epoch != mine.epoch]
        yield
        step = decide(mine, others, owners, store.acquisition, NAMES).step
        if step is Step.WAIT:
            yield
            continue
        if step is Step.SETTLE:
            store.settle(mine.acquisition)
            yield
            if store.acquisition == mine.acquisition:
                for element in mine.sources:
                    store.own(element, mine.epoch)
                    yield
                if is_settled(mine, store.owners):
                    outcome[mine.epoch] = "copies"
                    return
        for element in [] if is_settled(mine, owners) else mine.sources:
            if store.owners.get(element) == mine.epoch:
                del store.owners[element]
                yield
        store.claims.pop(mine.epoch, None)
        outcome[mine.epoch] = "lost"
        return


@pytest.mark.parametrize(("conditional", "lags"), [(False, False), (True, False), (True, True)])
def test_two_never_copy_the_same(conditional: bool, lags: bool) -> None:
    """In any order of the requests of three parts. In half of the runs, some are killed and begin again."""
    lone = 0
    for seed in range(3000):
        chance = random.Random(seed)
        store = Store(conditional=conditional, lags=lags)
        claims = {
            epoch: claim(
                epoch,
                *sorted(chance.sample(range(3), chance.randint(1, 3))),
                acquisition=chance.choice([ACQUISITION, ACQUISITION, OTHER]),
            )
            for epoch in (3, 5, 8)
        }
        outcome: dict[int, str] = {}
        running = {epoch: steps(store, each, outcome) for epoch, each in claims.items()}
        while running:
            epoch = chance.choice(sorted(running))
            if seed % 2 and chance.random() < 0.05:
                running[epoch] = steps(store, claims[epoch], outcome)
            if next(running[epoch], "ended") == "ended":
                del running[epoch]
        copying = [claims[epoch] for epoch, what in outcome.items() if what == "copies"]
        lone += len(copying) == 1
        if not lags and not seed % 2:
            assert copying or len(outcome) < len(claims), seed  # who waits has not lost
        for one, other in itertools.combinations(copying, 2):
            assert not {*one.sources} & {*other.sources}, seed
            assert one.acquisition == other.acquisition, seed
        assert all(is_settled(one, store.owners) for one in copying), seed
    assert lone > 1000


def test_a_claim_comes_back_as_it_was() -> None:
    mine = Claim(epoch=2**62, host="left", sources=(1, 2), acquisition=common_of(part_spec("GFP", "RFP")))
    again = Claim.from_json(mine.to_json())
    assert again.to_json() == mine.to_json()
    assert (again.sources, again.acquisition) == (mine.sources, mine.acquisition)


def test_what_parts_must_have_in_common() -> None:
    """Where it is stored and how it is recorded is each daemon's; the images are those of all."""
    mine = common_of(part_spec("GFP"))
    own: dict[str, Any] = {"ring_slots": 16, "backpressure": "drop", "durability": "none", "output": "left.ome.zarr"}
    assert difference(mine, common_of(part_spec("DAPI", "RFP", backend="tensorstore", **own))) == ""
    spec = whole_of(mine)
    assert (spec.own_sources, spec.source_names, spec.name) == (None, ("DAPI", "GFP", "RFP"), "cams")
    for change, told in (
        ({"dtype": "uint8"}, "dtype is 'uint16' here and 'uint8' there"),
        ({"levels": 1}, "levels is 2 here and 1 there"),
        ({"name": "dogs"}, "name is 'cams' here and 'dogs' there"),
        ({"dims": "t:inf:1:8,c:3,y:16:8:2,x:16"}, "dimensions[0].shard_size_chunks is 4 here and 8 there"),
    ):
        assert difference(mine, common_of(part_spec("GFP", **change))) == told


def test_each_setting_is_common_or_each_daemons_own() -> None:
    """A new one belongs here if it changes what is stored, and else to those that each daemon decides for itself."""
    assert {*common_of(part_spec("GFP"))} == {
        "name",
        "dimensions",
        "dtype",
        "compression",
        "storage_order",
        "plate",
        "source_dimension",
        "color",
        "levels",
        "downsample",
        "position_folders",
    }
    wants: dict[str, Any] = {"copy_to": "s3://lab/x", "copy_limit": 5e6, "copy_evict": True}
    assert whole_of(common_of(part_spec("GFP", **wants))).copy_to is None


def test_differences_are_told_in_few_words() -> None:
    many = {f"field{n:03}": "x" * 500 for n in range(100)}
    assert len(difference(many, {})) < 500


@pytest.mark.parametrize("own", [None, ("DAPI", "GFP", "RFP"), ("0", "2", "1")])
def test_a_dataset_with_all_sources_is_no_part(own: tuple[str, ...] | None) -> None:
    assert not part_spec(*(own or ()), copy_to="s3://lab/x", copy_live=True).is_part


def test_a_part_has_no_live_copy() -> None:
    assert part_spec("GFP", copy_to="s3://lab/x").is_part
    refused: Callable[[], Any] = lambda: part_spec("GFP", copy_to="s3://lab/x", copy_live=True)  # noqa: E731
    with pytest.raises(Exception, match="copy_live"):
        refused()
