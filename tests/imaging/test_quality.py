from pathlib import Path

import mrcfile
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from scoretomo.datatypes import ImageStack
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.fourier import centred_fft, centred_inverse_fft, radius_grid, translate
from scoretomo.imaging.masks import ball, soft_ball
from scoretomo.imaging.preprocess import PreprocessConfig, preprocess
from scoretomo.imaging.projection import project
from scoretomo.imaging.quality import Quality, assess, similarities

SIDE = 40

# Of the mixture, by eye, before anything was measured; what could be argued about is left out.
JUNK = (0, 12, 22, 23, 24, 30, 32, 35, 37, 43, 48, 51, 53, 54, 60, 70, 85, 97, 98)
GOOD = (
    *(1, 2, 3, 4, 5, 8, 9, 11, 13, 14, 17, 26, 31, 34, 36, 38, 40, 41, 44, 46, 47, 49, 50, 55, 57, 58, 59),
    *(62, 63, 69, 73, 75, 78, 80, 83, 84, 88, 89, 90, 91, 92, 93, 94, 99),
)


@pytest.fixture
def views(generator: torch.Generator) -> Float[Tensor, "24 side side"]:
    """Projections of one molecule with detail, of 60 A of radius or so at 5 A a pixel."""
    return molecule_views(24, 8.0, generator)


def molecule_views(count: int, radius: float, generator: torch.Generator) -> Float[Tensor, "n side side"]:
    noise = torch.randn(1, SIDE, SIDE, SIDE, generator=generator)
    textured = blurred(noise[0], 0.25, 3)
    volume = soft_ball(SIDE, 3, radius, 2.0) * (1 + 0.8 * textured / textured.std())
    # none but the asymmetric have views of their own
    volume[:, : SIDE // 2 - 3, SIDE // 2 :] *= 0.2
    return project(volume.expand(count, -1, -1, -1), random_rotations(count, generator=generator)[:, None])[:, 0]


def blurred(arrays: Tensor, cutoff: float, dimensions: int = 2) -> Tensor:
    frequency = radius_grid(SIDE, dimensions) / SIDE
    return centred_inverse_fft(centred_fft(arrays, dimensions) * torch.exp(-((frequency / cutoff) ** 2)), dimensions)


def words(quality: Quality, index: int) -> str:
    return "; ".join(quality.reasons[index])


def test_views_of_one_molecule_are_all_good(views: Tensor) -> None:
    quality = assess(views, 5.0)
    assert quality.verdicts == ("good",) * 24
    assert quality.reasons == ((),) * 24


def test_a_quarter_of_blurred_images_is_named_and_no_other(views: Tensor) -> None:
    """So many cannot hide themselves: the reference is what the sharper ones reach, not the mean."""
    views[3:9] = blurred(views[3:9], 0.05)
    quality = assess(views, 5.0)
    assert quality.which("junk") == list(range(3, 9))
    assert all("blurred" in words(quality, index) for index in range(3, 9))


def test_noise_of_its_own_makes_no_image_junk(views: Tensor, generator: torch.Generator) -> None:
    """Averages of few particles are noisier: neither they nor the clean ones among them are blurred."""
    level = views.std() * torch.logspace(-2, 0, 24)[torch.randperm(24, generator=generator)]
    noisy = views + level[:, None, None] * torch.randn(views.shape, generator=generator) * ball(SIDE, 2, SIDE / 2)
    assert assess(noisy, 5.0).which("junk") == []


def test_a_sharp_image_with_a_neighbour_is_doubtful_and_stays(generator: torch.Generator) -> None:
    views = molecule_views(24, 6.0, generator)
    views[7] += views[7].max() * soft_ball(SIDE, 2, 3.0, 1.5).roll((-12, -12), (0, 1))
    quality = assess(views, 5.0)
    assert quality.which("doubtful") == [7]
    assert "neighbours" in words(quality, 7)
    # the particle beside it is measured as if it were alone
    assert abs(quality.parts["density"][7].item() - 1) < 0.1


def test_an_image_cut_off_at_the_rim_is_doubtful(views: Tensor) -> None:
    inside = ball(SIDE, 2, SIDE / 2)
    views[5] = translate(views[5:6], torch.tensor([[13.0, 0.0]]))[0] * inside
    quality = assess(views, 5.0)
    assert quality.which("doubtful") == [5]
    assert "off centre" in words(quality, 5) and "rim" in words(quality, 5)


def test_the_ring_among_other_views_is_the_odd_one_out(views: Tensor) -> None:
    radius = radius_grid(SIDE, 2)
    views[11] = 12 * torch.exp(-((radius - 6) ** 2) / 3)
    quality = assess(views, 5.0)
    assert quality.which("junk") == [11]
    assert "odd one out" in words(quality, 11)


def test_few_images_are_not_compared_since_each_may_be_a_view_of_its_own(views: Tensor) -> None:
    views[2] = blurred(views[2], 0.05)
    assert assess(views[:12], 5.0).which("junk") == []
    assert assess(views[:20], 5.0).which("junk") == [2]


def test_if_most_of_a_set_looks_like_junk_none_is_called_so(views: Tensor) -> None:
    views[:14] = blurred(views[:14], 0.05)
    quality = assess(views, 5.0)
    assert quality.which("junk") == []
    assert quality.which("doubtful") == list(range(14))


def test_an_empty_image_is_junk_also_in_a_small_set(views: Tensor) -> None:
    views[1] = 0
    quality = assess(views[:4], 5.0)
    assert quality.verdicts == ("good", "junk", "good", "good")
    assert quality.reasons[1] == ("empty",)
    assert quality.parts["density"].isnan().tolist() == [False, True, False, False]


def test_what_the_classification_says_is_believed(views: Tensor) -> None:
    """RELION writes infinity or 999 A for a class that it could not align."""
    resolutions, populations = torch.full((24,), 9.0), torch.full((24,), 1 / 24)
    resolutions[4], resolutions[5] = 30.0, torch.inf
    populations[4], populations[6] = 0.002, 0.002
    quality = assess(views, 5.0, resolutions_angstrom=resolutions, populations=populations)
    assert quality.which("junk") == [4]
    assert "30 A" in words(quality, 4) and "few particles" in words(quality, 4)
    assert quality.which("doubtful") == [6]
    assert quality.parts["resolution_angstrom"][3] == 9.0


def test_an_image_without_an_object_is_junk_and_spoils_no_other(views: Tensor, generator: torch.Generator) -> None:
    views[3] = -torch.rand(SIDE, SIDE, generator=generator)
    quality = assess(views, 5.0)
    assert quality.which("junk") == [3]
    assert quality.parts["similarity"][torch.arange(24) != 3].min() > 0.8


def test_parts_have_units_and_know_a_gaussian() -> None:
    """A Gaussian of 4 pixels moved by (3, -5): radius of gyration of sigma sqrt(2), finest detail in closed form."""
    axis = torch.arange(SIDE) - SIDE // 2.0
    gaussian = torch.exp(-((axis - 3)[None, :] ** 2 + (axis + 5)[:, None] ** 2) / 32)
    images = torch.stack([gaussian, 2 * gaussian, 2 * gaussian])
    parts = assess(images, 2.5).parts
    assert torch.allclose(parts["offset_angstrom"], torch.tensor(34**0.5 * 2.5).expand(3), rtol=0.05)
    assert torch.allclose(parts["radius_angstrom"], torch.tensor(4 * 2**0.5 * 2.5).expand(3), rtol=0.1)
    assert torch.allclose(parts["density"], torch.tensor([0.5, 1.0, 1.0]))
    # the power beyond k is exp(-(2 pi sigma k)^2); a thousandth of it lies beyond this
    expected = 2.5 * 2 * torch.pi * 4 / torch.tensor(1e3).log().sqrt()
    assert torch.allclose(parts["resolution_angstrom"], expected.expand(3), rtol=0.1)
    assert parts["similarity"].min() > 0.999


def test_rotation_and_flip_do_not_change_what_is_alike(views: Tensor) -> None:
    turned = torch.nn.functional.pad(views[:2, 1:, 1:].rot90(1, (1, 2)).flip(2), (1, 0, 1, 0))
    found = similarities(torch.cat([views[:2], turned]))
    assert found[0, 2] > 0.99 and found[1, 3] > 0.99
    assert found[0, 3] < 0.97 and torch.allclose(found, found.T, atol=1e-3)


def of_file(path: Path, pixel_size_angstrom: float) -> Quality:
    stack = ImageStack(torch.from_numpy(mrcfile.read(path).copy()).float(), pixel_size_angstrom)
    images, record = preprocess(stack, PreprocessConfig(), multiple=1)
    return assess(images, record.working_pixel_size_angstrom)


def test_junk_of_the_mixture_is_named_and_no_good_average_is_lost(data: Path) -> None:
    """EMPIAR-10268: 19 averages that are junk to the eye, 44 that are good; 85 (from 0) looks like apoferritin."""
    quality = of_file(data / "class_averages" / "mixture_100x96px.mrcs", 4.2)
    assert set(JUNK) <= set(quality.which("junk"))
    assert {quality.verdicts[index] for index in GOOD} == {"good"}
    assert len(quality.which("junk")) <= 25
    assert "odd one out" in words(quality, 85)
    assert [i for i in range(100) if "odd one out: no other" in words(quality, i) and i not in JUNK] == []


@pytest.mark.parametrize(
    "name", ["betagal_16x100px_3.54A", "orf2p_69x76px", "hand_100x64px", "ribosome80S_50x88px_5.36A"]
)
def test_no_average_of_a_set_without_junk_is_doubted(name: str, data: Path) -> None:
    assert set(of_file(data / "class_averages" / f"{name}.mrcs", 4.0).verdicts) == {"good"}
