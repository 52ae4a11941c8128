"""What is done to text vectors before they meet ids, against its definition."""

from __future__ import annotations

import pytest
import torch

from recbole_eimf.config.keys import ItemSettings
from recbole_eimf.model.item_table import TextTransform, principal_components

N, D = 60, 6


@pytest.fixture
def text():
    """Correlated vectors of very different spreads; item 0 and two others have none."""
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(N, D, generator=draw) * torch.tensor([4.0, 2.0, 1.0, 0.7, 0.5, 0.2])
    vectors = vectors @ torch.linalg.qr(torch.randn(D, D, generator=draw))[0] + 3
    has_text = torch.ones(N, dtype=torch.bool)
    has_text[[0, 7, 31]] = False
    return vectors * has_text[:, None], has_text


def spread(vectors):
    """Descending eigenvalues of the covariance."""
    centred = vectors.double() - vectors.double().mean(0)
    return torch.linalg.eigvalsh(centred.T @ centred / len(vectors)).flip(0)


@pytest.mark.parametrize(("kind", "power"), [("center", 1.0), ("half", 0.5), ("full", 0.0)])
def test_whitening_raises_the_spread_of_each_direction_to_its_power(text, kind, power):
    """Components times eigenvalue^-1/4 (half) have variance eigenvalue^1/2; times eigenvalue^-1/2 (full), one."""
    vectors, has_text = text
    made = TextTransform(vectors, has_text, ItemSettings(text_whitening=kind))(vectors)
    before, known = spread(vectors[has_text]), made[has_text]
    expected = before**power / (before**power).sum()  # scaled to a mean squared length of one
    assert torch.allclose(spread(known), expected, rtol=1e-3)
    assert torch.allclose(known.mean(0), torch.zeros(D), atol=1e-5)
    covariance = torch.cov(known.T, correction=0)
    assert torch.allclose(covariance, torch.diag(covariance.diagonal()), atol=1e-5), "directions are uncorrelated"
    assert (covariance.diagonal().diff() <= 1e-5).all(), "the widest first"


def test_text_dimension_keeps_the_widest_directions(text):
    vectors, has_text = text
    made = TextTransform(vectors, has_text, ItemSettings(text_whitening="half", text_dimension=2))(vectors)[has_text]
    expected = spread(vectors[has_text])[:2] ** 0.5
    assert made.shape[1] == 2
    assert torch.allclose(spread(made), expected / expected.sum(), rtol=1e-3)


def test_other_text_is_moved_by_what_was_fitted_on_items(text):
    """The transform is affine: interests, which it was not fitted on, go where an item of that text would."""
    vectors, has_text = text
    transform = TextTransform(vectors, has_text, ItemSettings(text_whitening="full"))
    made = transform(vectors)
    between = transform((vectors[1] + vectors[2])[None, None] / 2)
    assert between.shape == (1, 1, D)
    assert torch.allclose(between[0, 0], (made[1] + made[2]) / 2, atol=1e-5)


def test_untouched_text_is_the_text(text):
    vectors, has_text = text
    assert torch.equal(TextTransform(vectors, has_text, ItemSettings())(vectors), vectors)


def test_principal_components_are_those_of_the_items_with_text(text):
    vectors, has_text = text
    made = principal_components(vectors, has_text, 8, 0.02, torch.Generator().manual_seed(0))
    known = made[has_text][:, :D].double()
    assert made.shape == (N, 8)
    assert known.std().item() == pytest.approx(0.02, rel=1e-4)
    before = spread(vectors[has_text])
    assert torch.allclose(spread(known) / spread(known).sum(), before / before.sum(), rtol=1e-3)
    variance = known.var(0)
    assert (variance.diff() < 0).all(), "the widest first"
    # what text does not fill is noise of the same deviation, not nothing
    assert made[~has_text].std().item() == pytest.approx(0.02, rel=0.5)
    assert made[has_text][:, D:].std().item() == pytest.approx(0.02, rel=0.3)


def test_items_that_are_not_fitted_on_are_projected_as_the_others_say(text):
    vectors, has_text = text
    fitted = has_text.clone()
    fitted[has_text.nonzero().squeeze(1)[::3]] = False
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    made = principal_components(vectors, has_text, 8, 0.02, draw(), fitted)[:, :D]
    alone = principal_components(vectors * fitted[:, None], fitted, 8, 0.02, draw())[:, :D]
    assert torch.allclose(made[fitted], alone[fitted], atol=1e-7)
    # an affine map that sends the fitted ones where they are sends the others where they are
    design = torch.cat([vectors, torch.ones(len(vectors), 1)], 1).double()
    solved = torch.linalg.lstsq(design[fitted], made[fitted].double()).solution
    others = has_text & ~fitted
    assert torch.allclose(design[others] @ solved, made[others].double(), atol=1e-5)
    whole = principal_components(vectors, has_text, 8, 0.02, draw(), has_text)
    assert torch.equal(whole, principal_components(vectors, has_text, 8, 0.02, draw()))
