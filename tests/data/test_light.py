"""Changes of light: each kind changes the property that its name says, within its strength."""

from pathlib import Path

import albumentations as A
import numpy as np
import pytest

from lit_ad.data.augment import Augment, load_transforms, make_augment
from lit_ad.data.light import KINDS, Kind, Light, Shadow
from lit_ad.errors import UserError

SEEDS = range(20)


def picture(colours: bool = True) -> np.ndarray:
    image = np.random.default_rng(0).integers(40, 180, (32, 40, 3)).astype(np.uint8)
    return image if colours else np.repeat(image[..., :1], 3, axis=2)


def draw(kind: Kind, strength: float, image: np.ndarray) -> list[np.ndarray]:
    augment = Augment([Light(kind, strength)])
    return [augment(image, (0, 0, seed)) for seed in SEEDS]


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_always_draws_the_same_change(kind: Kind) -> None:
    image, augment = picture(), Augment([Light(kind, 0.3)])
    once, other = augment(image, (0, 1, 2)), augment(image, (0, 1, 3))
    assert once.shape == image.shape and once.dtype == np.uint8 and not np.array_equal(once, image)
    assert np.array_equal(once, augment(image, (0, 1, 2))) and not np.array_equal(once, other)
    assert np.array_equal(Augment([Light(kind, 0.3)])(image, (0, 1, 2)), once)


@pytest.mark.parametrize("kind", KINDS)
def test_a_grey_image_stays_grey(kind: Kind) -> None:
    image = picture(colours=False)
    changed = draw(kind, 0.5, image)
    assert all((each == each[..., :1]).all() for each in changed)
    assert np.array_equal(changed[0], image) == (kind == "white_balance")


@pytest.mark.parametrize("strength", [0.1, 0.4])
def test_changes_fill_the_range_that_the_strength_allows(strength: float) -> None:
    """The test compares each kind with its formula: gains, gains by colour, a share of light, a deviation, contrast
    about the mean."""
    image = picture().astype(float)
    gains = np.array([np.median(each / image, axis=(0, 1)) for each in draw("brightness", strength, picture())])
    assert np.allclose(gains, gains[:, :1], atol=0.02)
    tints = np.array([np.median(each / image, axis=(0, 1)) for each in draw("white_balance", strength, picture())])
    assert np.ptp(tints, axis=1).max() > strength / 3
    for values, most in ((gains, strength), (tints, strength / 2)):
        assert most / 2 < abs(values - 1).max() <= most + 0.02
    shares = np.array([(each / image).min() for each in draw("shadow", strength, picture())])
    assert strength / 2 < 1 - shares.min() <= strength + 0.03 and shares.max() <= 1
    noise = np.array([(each - image).std() / 255 for each in draw("noise", strength, picture())])
    assert strength / 20 < noise.max() <= strength / 9
    grey = picture(colours=False)
    spread = np.array([each.std() / grey.std() for each in draw("contrast", strength, grey)])
    assert strength / 2 < abs(spread - 1).max() <= strength + 0.02
    means = np.array([each.mean() for each in draw("contrast", strength, grey)])
    assert np.allclose(means, grey.mean(), atol=1)
    powers = [
        np.log(each.mean() / 255) / np.log(100 / 255) for each in draw("gamma", strength, np.full_like(grey, 100))
    ]
    assert 1 / (1 + strength) - 0.02 <= min(powers) < 1 < max(powers) <= 1 + strength + 0.02


def test_a_shadow_falls_from_full_light_to_its_depth() -> None:
    shaded = A.Compose([Shadow((0.5, 0.5))], seed=0)(image=np.ones((16, 16, 3), np.float32))["image"]
    assert shaded.max() == pytest.approx(1) and shaded.min() == pytest.approx(0.5)
    corners = [float(shaded[y, x, 0]) for y in (0, -1) for x in (0, -1)]
    assert {max(corners), min(corners)} == {float(shaded.max()), float(shaded.min())}


def test_a_change_of_light_is_made_from_its_name_and_from_a_file(tmp_path: Path) -> None:
    image = picture()
    configure_logger = make_augment("gamma")
    assert configure_logger is not None and np.array_equal(
        configure_logger(image, (3,)), Augment([Light("gamma")])(image, (3,))
    )
    A.save(Light("shadow", 0.2), tmp_path / "light.json")
    (loaded,) = load_transforms(tmp_path / "light.json")
    assert isinstance(loaded, Light) and (loaded.kind, loaded.strength) == ("shadow", 0.2)
    assert "kind='shadow', strength=0.2" in str(Augment([loaded]).compose)  # checkpoints hold this text


def test_an_unknown_kind_and_a_wrong_strength_are_refused() -> None:
    with pytest.raises(UserError, match=r"no kind 'dusk': there are light, brightness"):
        Light("dusk")  # type: ignore[arg-type]
    for strength in (0, 1.1, float("nan")):
        with pytest.raises(UserError, match=r"strength is .* above 0, and not above 1"):
            Light("light", strength)
    assert draw("light", 1.0, picture())[0].dtype == np.uint8
