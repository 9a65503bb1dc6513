"""Images beside what an attack made of them: the same digits and models whenever a study is made again."""

import base64
import io

import pytest
from PIL import Image

from secagg_app.audit import pictures as module
from secagg_app.audit.pictures import SETTINGS, Picture, pictures, rows_of
from secagg_app.audit.report import beside
from secagg_attacks.inversion.images import DeepLeakage


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that has no time to find anything."""
    monkeypatch.setattr(module, "ATTACK", DeepLeakage(steps=1))


def picture(setting: str, psnr: float, original: str = "a") -> Picture:
    return Picture(setting, original, "b", psnr, 9.0)


@pytest.mark.usefixtures("hasty")
def test_one_image_is_looked_for_in_each_setting_and_again() -> None:
    found = pictures(3, 1)
    assert [each.setting for each in found] == [setting.title for setting in SETTINGS]
    assert len({each.original for each in found}) == 1, "the first client's, whoever looks"
    assert Image.open(io.BytesIO(base64.b64decode(found[0].guess))).size == (96, 96)
    assert pictures(3, 1) == found
    assert pictures(4, 1)[0].original != found[0].original


@pytest.mark.slow
def test_a_clients_update_gives_its_image_away_and_its_noise_hides_it() -> None:
    """With six beginnings one of four images is found at least; under noise and in the sum none comes near."""
    plain, total, noisy = zip(*(pictures(seed, 6) for seed in range(100, 104)), strict=True)
    assert any(each.psnr > each.blank + 8 for each in plain)
    assert all(each.psnr < each.blank + 1 for each in (*total, *noisy))


def test_found_is_clearly_nearer_than_grey() -> None:
    first, second = rows_of([picture("x", 10), picture("y", 17), picture("x", 20), picture("y", 30)])
    assert (first.setting, first.found.value, first.found.count) == ("x", 0.5, 2)
    assert first.found.low < 0.02
    assert first.found.high > 0.98
    assert (second.setting, second.found.value) == ("y", 1)
    assert rows_of([]) == []


def test_a_row_of_the_page_is_an_original_and_its_guesses() -> None:
    rows = beside([picture("x", 1, "a"), picture("y", 1, "a"), picture("x", 1, "c")])
    assert [(original, len(found)) for original, found in rows] == [("a", 2), ("c", 1)]
