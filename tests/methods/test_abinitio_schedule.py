"""When and how finely poses are searched that an initial model has given."""

import math

import pytest

from scoretomo.methods.abinitio_schedule import AbInitioConfig
from scoretomo.methods.latent_vae import LatentVAEConfig

COUNTS = [60, 500, 1000, 9999, 10_000, 50_000, 500_000]


def test_poses_begin_with_an_initial_model_unless_said_otherwise() -> None:
    assert AbInitioConfig().start == "initial"


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("cycle", [0, 1])
def test_poses_that_were_found_have_no_epoch_at_random_ones_and_the_whole_disc(count: int, cycle: int) -> None:
    search = AbInitioConfig(pretrain_images=1000, first_radius=3.0, high_radius=15.0)
    assert search.pretrain_epochs(count, cycle) == 0
    grown = {search.grown(seen, 30.0, count, cycle) for seen in (0, 1, count // 2, 29 * count)}
    assert grown == {1.0}
    assert search.radius(32, 1.0) == 15.0 and search.trained_radius(32, 1.0) == math.inf
    at_random = AbInitioConfig(start="random", pretrain_images=1000, first_radius=3.0, high_radius=15.0)
    assert at_random.pretrain_epochs(count, 0) == math.ceil(1000 / count) and at_random.grown(0, 30.0, count, 0) == 0


@pytest.mark.parametrize("count", COUNTS)
def test_networks_see_10_000_images_before_they_search(count: int) -> None:
    search = AbInitioConfig()
    for epochs in (10.0, 30.0, 30.5):
        for cycle in (0, 1):
            searched = search.search_epochs(epochs, count, cycle)
            assert all(epoch * count >= 10_000 and epoch < epochs for epoch in searched)
            assert searched == search.search_epochs(epochs, count, 0)  # a reset changes nothing


def test_later_searches_come_as_seldom_as_those_of_the_paper() -> None:
    search = AbInitioConfig()
    assert search.search_epochs(31.0, 50_000, cycle=0) == [5, 10, 15, 20, 25, 30]
    assert search.search_epochs(31.0, 1000, cycle=0) == [10, 15, 20, 25, 30]
    assert search.search_epochs(31.0, 60, cycle=0) == []  # the poses that were found are kept to the end
    assert AbInitioConfig(search_every=2).search_epochs(15.0, 1000, cycle=0) == [10, 12, 14]
    long = search.search_epochs(500.0, 1000, cycle=0)
    assert long[0] == 20 and len(long) <= 25


def test_after_poses_at_random_a_third_of_the_epochs_is_enough_to_trust_new_networks() -> None:
    random = AbInitioConfig(start="random")
    assert random.search_epochs(60.0, 60, cycle=1)[0] == 20
    assert AbInitioConfig().search_epochs(60.0, 60, cycle=1) == []


def test_a_family_still_follows_one_volume_for_all() -> None:
    family = LatentVAEConfig(latent_dimensions=2, epochs=4.0)
    assert [each.latent_dimensions for each in AbInitioConfig().cycles(family, "search")] == [0, 2]
