"""What is done to text vectors before they meet ids, against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_eimf.config.keys import ItemSettings
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.model.item_table import ItemTable, TextTransform, principal_components, standardised_components
from recbole_eimf.model.placing import Neighbours
from recbole_eimf.model.text_adaptor import WhiteningMixture, text_adaptor
from recbole_eimf.model.text_codes import dealt_out, product_codes

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


def flat_text(text):
    """The same items' text in three of its six dimensions."""
    vectors, has_text = text
    known = vectors[has_text].double()
    directions = torch.linalg.svd(known - known.mean(0), full_matrices=False).Vh[:3]
    return (vectors.double() @ directions.T @ directions).float() * has_text[:, None], has_text


@pytest.mark.parametrize(("kind", "power"), [("half", 0.5), ("full", 0.0)])
def test_directions_in_which_no_text_varies_are_not_blown_up(text, kind, power):
    vectors, has_text = flat_text(text)
    made = TextTransform(vectors, has_text, ItemSettings(text_whitening=kind))(vectors)[has_text]
    expected = spread(vectors[has_text])[:3] ** power
    assert torch.allclose(spread(made)[:3], expected / expected.sum(), rtol=1e-3)
    assert made[:, 3:].abs().max() < 0.01


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


@pytest.mark.parametrize("kind", ["center", "half", "full"])
def test_text_that_was_not_fitted_on_is_not_blown_up(kind):
    """Of 200 texts in 384 dimensions most directions do not vary: another text's share in them is no signal."""
    vectors = torch.nn.functional.normalize(torch.randn(250, 384, generator=torch.Generator().manual_seed(0)), dim=1)
    fitted = torch.arange(250) < 200
    made = TextTransform(vectors, fitted, ItemSettings(text_whitening=kind))(vectors)
    assert made[fitted].square().sum(1).mean() == pytest.approx(1, rel=1e-4)
    assert made[~fitted].norm(dim=1).max() < 1.5


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


def test_components_have_their_deviation_however_many_are_kept(text):
    vectors, has_text = text
    for dimension in (2, 4):
        assert principal_components(vectors, has_text, dimension, 0.02)[has_text].std().item() == pytest.approx(
            0.02, rel=1e-3
        )


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


# ---------------------------------------------------------------------- text in the item table
def table(text, has_text, d=4, extra=0, **keys):
    torch.manual_seed(0)
    return ItemTable(N, d, ItemSettings(**keys), text, has_text, extra)


FORMS = [
    {"item_text": "add", "text_adaptor": "mlp"},
    {"item_text": "add", "text_adaptor": "moe", "adaptor_experts": 3},
    {"item_text": "concat", "text_adaptor": "moe"},
    {"item_text": "null_space"},
    {"item_text": "codes", "code_pieces": 3, "code_centroids": 5},
]


@pytest.mark.parametrize("keys", FORMS, ids=lambda keys: "-".join(map(str, keys.values())))
def test_text_is_folded_into_what_serves(text, keys):
    """A state of a training table, noise and dropout or not, is loaded by a bare one, which gives its vectors."""
    made = table(*text, extra=1, **keys).train()
    assert made.weight.shape == (N + 1, 4)
    assert not made.weight[0].any(), "padding"
    made.weight.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in made.parameters() if p is not getattr(made, "noise", None))
    state = {name: value.clone() for name, value in made.state_dict().items()}
    assert made.training
    assert not any(name.endswith(("text", "codes")) for name in state), "no text in a checkpoint"
    bare = ItemTable(N, 4, ItemSettings(), extra_rows=1, inference_only=True)
    bare.load_state_dict(state)
    assert torch.equal(bare.weight, made.eval().weight)


def test_alphafuse_learns_ids_where_text_says_nothing(text):
    """[standardised row space; ids]: each frozen direction of one variance, the text's widest ones; ids beside them."""
    vectors, has_text = text
    made = table(vectors, has_text, d=5, item_text="null_space", id_dimension=2).train()
    rows = made.weight.detach()[:N]
    known = vectors[has_text].double().numpy()
    _, _, directions = np.linalg.svd(known - known.mean(0), full_matrices=False)
    expected = (known - known.mean(0)) @ directions[:3].T
    expected = expected / expected.std(0) / np.sqrt(3)  # of mean squared length one together
    got = rows[has_text, :3].double().numpy()
    assert np.allclose(np.abs(got), np.abs(expected), atol=1e-4)  # directions have no sign
    assert not rows[~has_text, :3].any()
    assert torch.equal(rows[:, 3:], made.embedding.weight[:N])
    made.weight.square().sum().backward()
    assert [name for name, _ in made.named_parameters()] == ["embedding.weight"], "nothing of the text is trained"
    with pytest.raises(ConfigError, match="id_dimension=4: .*less than the 4"):
        table(vectors, has_text, item_text="null_space", id_dimension=4)


def test_alphafuse_gives_ids_all_that_a_narrow_text_leaves(text):
    """Its null space is more than half of the dimensions; frozen zeros would say nothing of an item."""
    vectors, has_text = text
    made = table(vectors, has_text, d=2 * D + 4, item_text="null_space").train()
    assert made.embedding.embedding_dim == D + 4
    assert (made.weight[:N][has_text].std(0) > 0).all()
    assert table(vectors, has_text, d=2 * D, item_text="null_space").embedding.embedding_dim == D
    with pytest.raises(ConfigError, match=f"id_dimension={D + 3}: .*leaves the text {D + 1} .*at least {D + 4}, or 0"):
        table(vectors, has_text, d=2 * D + 4, item_text="null_space", id_dimension=D + 3)


def signed_directions(vectors, has_text):
    """Numpy's principal directions of the items with text, each with its entry of greatest magnitude positive."""
    known = vectors[has_text].double().numpy()
    centred = known - known.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2].T
    directions = directions * np.sign(directions[np.abs(directions).argmax(0), range(D)])
    return centred @ directions


def test_directions_have_the_sign_that_makes_their_greatest_entry_positive(text):
    """Else another processor, or another LAPACK, would start from other vectors."""
    vectors, has_text = text
    moved = signed_directions(vectors, has_text)
    alpha = standardised_components(vectors, has_text, D)[has_text].numpy()
    assert alpha == pytest.approx(moved / moved.std(0) / D**0.5, abs=1e-4)
    first = principal_components(vectors, has_text, D, 0.02)[has_text].numpy()
    assert first == pytest.approx(moved / moved.std() * 0.02, rel=0.01, abs=1e-5)
    white = TextTransform(vectors, has_text, ItemSettings(text_whitening="full"))(vectors)[has_text].numpy()
    assert white == pytest.approx(moved / moved.std(0) / D**0.5, abs=1e-4)


def test_components_do_not_depend_on_the_texts_unit(text):
    vectors, has_text = text
    small = standardised_components(vectors * 1e-4, has_text, D)
    assert torch.allclose(small, standardised_components(vectors, has_text, D), atol=1e-4)
    for kind in ("center", "half", "full"):
        settings = ItemSettings(text_whitening=kind)
        small = TextTransform(vectors * 1e-4, has_text, settings)(vectors * 1e-4)
        assert torch.allclose(small, TextTransform(vectors, has_text, settings)(vectors), atol=1e-4)


def test_fewer_dimensions_without_whitening_keep_lengths_and_the_mean(text):
    vectors, has_text = text
    made = TextTransform(vectors, has_text, ItemSettings(text_dimension=3))(vectors)[has_text].double()
    known = vectors[has_text].double()
    largest = torch.linalg.eigvalsh(known.T @ known)[-3:]
    assert torch.allclose(torch.linalg.eigvalsh(made.T @ made), largest, rtol=1e-4)


@pytest.mark.parametrize("keys", [{}, {"item_init": "xavier"}, {"item_init": "pca_text"}])
def test_ids_start_as_their_key_says(text, keys):
    vectors, has_text = text
    torch.manual_seed(0)
    weight = ItemTable(N, D, ItemSettings(item_init_std=0.07, **keys), vectors, has_text).embedding.weight.detach()
    assert not weight[0].any()
    if keys.get("item_init") == "pca_text":
        start = principal_components(vectors, has_text, D, 0.07)
        assert torch.allclose(weight[has_text], start[has_text], atol=1e-6)
    else:
        wanted = 0.07 if not keys else (2 / (N + D)) ** 0.5
        assert weight[1:].std().item() == pytest.approx(wanted, rel=0.15)


def test_adaptors_are_what_their_names_say():
    linear, mlp, moe = (text_adaptor(kind, 6, 4, 3) for kind in ("linear", "mlp", "moe"))
    assert isinstance(linear, torch.nn.Linear)
    assert [type(layer) for layer in mlp] == [torch.nn.Linear, torch.nn.GELU, torch.nn.Linear]
    assert isinstance(moe, WhiteningMixture)
    assert not moe.gate.any(), "experts count the same at the start"
    assert not moe.noise.any(), "and their noise has one deviation"


def test_no_more_centroids_than_different_texts(recwarn):
    vectors = torch.randn(2, D)[torch.arange(20) % 2]
    codes = product_codes(vectors, torch.ones(20, dtype=torch.bool), 1, 5)
    assert codes[0] != codes[1]
    assert (codes == codes[torch.arange(20) % 2]).all()
    assert not [warning for warning in recwarn if "Convergence" in warning.category.__name__]


def test_alphafuse_leaves_directions_out_in_which_no_text_varies(text):
    vectors, has_text = flat_text(text)
    made = standardised_components(vectors, has_text, 5)
    known = made[has_text]
    assert torch.allclose(known[:, :3].std(0, correction=0), torch.full((3,), 3**-0.5), rtol=1e-3)
    assert known.square().sum(1).mean().item() == pytest.approx(1, rel=1e-3)
    assert not made[:, 3:].any()
    assert not made[~has_text].any()
    wide = standardised_components(vectors[:, :2], has_text, 5)
    assert wide.shape == (N, 5)
    assert not wide[:, 2:].any(), "the text has two dimensions"


def test_a_mixture_of_whitenings_is_that_of_its_formula():
    torch.manual_seed(1)
    mixture = WhiteningMixture(6, 4, 3, 0.5).double().eval()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.normal_()
    vectors = torch.randn(5, 6, dtype=torch.float64)
    vectors[2] = 0
    got = mixture(vectors)
    for x, row in zip(vectors, got):
        gate = torch.softmax(torch.stack([x @ mixture.gate[:, g] for g in range(3)]), 0)
        expected = sum(gate[g] * ((x - mixture.bias[g]) @ mixture.weight[g]) for g in range(3))
        assert torch.allclose(row, expected if x.any() else torch.zeros(4).double())


def test_the_gate_is_noisy_in_training_alone():
    mixture = WhiteningMixture(6, 4, 3, 0.0)
    x = torch.randn(2000, 6)
    with torch.no_grad():
        mixture.noise[0] = 1.0
    assert torch.allclose(mixture.eval().gates(x), torch.full((2000, 3), 1 / 3))
    logits = mixture.train().gates(x).log()
    spread = (logits - logits.mean(1, keepdim=True)).std(1)
    wide, narrow = x[:, 0] > 1, x[:, 0] < -1  # softplus(x) is the deviation
    assert spread[wide].mean() > 2 * spread[narrow].mean()
    assert torch.allclose(logits.exp().sum(1), torch.ones(2000))


def test_vqrec_items_are_sums_over_their_codes(text):
    vectors, has_text = text
    made = table(vectors, has_text, extra=1, item_text="codes", code_pieces=3, code_centroids=4)
    codes, own = made.codes[:N] - 4 * torch.arange(3), iter(made.embedding.weight.detach())
    assert (made.codes[:N][has_text] // 4 == torch.arange(3)).all(), "every piece has centroids of its own"
    assert made.code_embedding.weight.std().item() == pytest.approx(ItemSettings().item_init_std, rel=0.3)
    assert made.embedding.num_embeddings == 1 + 2 + 1  # padding, two items without text, the mask token
    for item, row in enumerate(made.weight.detach()[:N]):
        if has_text[item]:
            expected = sum(made.code_embedding.weight[4 * piece + codes[item, piece]] for piece in range(3)) / 3**0.5
        else:
            expected = next(own)
        assert torch.allclose(row, expected)


def test_codes_name_the_nearest_centroid_of_each_piece(text):
    """Every item is nearer to the mean of its code than to any other: Lloyd's fixed point, piece by piece."""
    vectors, has_text = text
    codes = product_codes(vectors, has_text, 2, 4)
    assert torch.equal(codes, product_codes(vectors, has_text, 2, 4))
    assert not codes[~has_text].any()
    known = vectors[has_text].double().numpy()
    centred = known - known.mean(0)
    variance, directions = np.linalg.eigh(centred.T @ centred / len(known))
    for piece, components in enumerate(dealt_out(variance, 2)):
        part, code = centred @ directions[:, components], codes[has_text, piece].numpy()
        means = np.stack([part[code == c].mean(0) for c in range(4)])
        assert (np.square(part[:, None] - means).sum(-1).argmin(1) == code).all()
    with pytest.raises(ConfigError, match="code_pieces=7: the text vectors have 6"):
        product_codes(vectors, has_text, 7, 4)


def test_pieces_hold_alike_much():
    variance = np.array([32.0, 16.0, 8.0, 4.0, 2.0, 1.0])
    pieces = dealt_out(variance, 3)
    assert sorted(sum(pieces, [])) == list(range(6))
    assert {float(np.prod(variance[piece])) for piece in pieces} == {32.0}
    assert all(dealt_out(np.ones(4), 3)), "no piece is empty, however alike components are"


def test_codes_of_items_that_are_not_fitted_on_are_the_nearest_of_the_others_centroids(text):
    vectors, has_text = text
    fitted = has_text & (torch.arange(N) % 3 > 0)
    codes = product_codes(vectors, has_text, 2, 4, fitted=fitted)
    alone = product_codes(vectors * fitted[:, None], fitted, 2, 4)
    assert torch.equal(codes[fitted], alone[fitted])
    known = vectors[fitted].double().numpy()
    variance, directions = np.linalg.eigh(np.cov(known.T, bias=True))
    every = (vectors.double().numpy() - known.mean(0)) @ directions
    for piece, components in enumerate(dealt_out(variance, 2)):
        part, code = every[:, components], codes[:, piece].numpy()
        means = np.stack([part[fitted.numpy() & (code == c)].mean(0) for c in range(4)])
        nearest = np.square(part[:, None] - means).sum(-1).argmin(1)
        assert (nearest == code)[has_text.numpy()].all()


def test_every_form_is_fitted_on_the_items_it_is_told(text):
    vectors, has_text = text
    fitted = has_text & (torch.arange(N) % 3 > 0)

    def made(**keys):
        return ItemTable(N, 4, ItemSettings(**keys), vectors, has_text, fitted=fitted)

    spaces = made(item_text="null_space")
    assert torch.equal(spaces.text, standardised_components(vectors, has_text, 2, fitted))
    assert spaces.embedding.embedding_dim == 2, "half of the dimensions are ids' by default"
    coded = made(item_text="codes", code_pieces=2, code_centroids=4)
    assert torch.equal(coded.codes - 4 * torch.arange(2), product_codes(vectors, has_text, 2, 4, fitted=fitted))
    start = made(item_init="pca_text").embedding.weight.detach()
    expected = principal_components(vectors, has_text, 4, ItemSettings().item_init_std, fitted=fitted)
    assert torch.allclose(start[has_text], expected[has_text], atol=1e-7)


@pytest.mark.parametrize("adaptor", ["linear", "mlp"])
def test_text_is_added_to_ids_or_joined_with_them(text, adaptor):
    vectors, has_text = text
    added = table(vectors, has_text, item_text="add", text_adaptor=adaptor)
    joined = table(vectors, has_text, item_text="concat", text_adaptor=adaptor)
    for item in (1, 8, 31):
        for made in (added, joined):
            ids = made.embedding.weight[item]
            said = made.projection(vectors[item])
            expected = ids + said if made is added else made.mix.weight @ torch.cat([ids, said])
            assert torch.allclose(made.weight[item], expected, atol=1e-6)
    assert added.train().weight.requires_grad
    assert not added.eval().weight.requires_grad, "what serves keeps no graph"


def test_a_mixture_is_of_items_alone():
    mixture = torch.eye(N).roll(1, 0).to_sparse()
    made = ItemTable(N, 4, ItemSettings(), extra_rows=1, mixture=mixture)
    rows = made.embedding.weight
    assert torch.equal(made.weight, torch.cat([rows[:N].roll(1, 0), rows[N:]]))


def test_the_mixture_of_whitenings_drops_text_out_and_starts_small():
    mixture = WhiteningMixture(40, 30, 8, 1.0)
    assert mixture.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not mixture.train()(torch.randn(3, 40)).any(), "of text dropped out nothing is left but the shift, zero here"
    assert mixture.eval()(torch.randn(3, 40)).any()
    kept = table(torch.randn(N, D), torch.ones(N).bool(), item_text="add", text_adaptor="moe", adaptor_dropout=0.3)
    assert kept.projection.dropout.p == 0.3


@pytest.mark.parametrize("keys", [{}, {"item_text": "add"}], ids=["ids", "add"])
def test_items_that_are_placed_are_where_their_neighbours_are_and_saved_so(text, keys):
    """The weighed mean of the neighbours' rows, as long as these are (placing.py's formula); all others stay."""
    made = table(*text, extra=1, **keys).eval()
    before = made.weight.clone()
    rows, near, weight = [7, 31], [[1, 2, 3], [4, 4, 9]], [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]
    made.place(torch.tensor(rows), Neighbours(torch.tensor(near), torch.tensor(weight)))
    expected = before.clone()
    for row, places, shares in zip(rows, near, weight):
        mean = sum(share * before[place] for share, place in zip(shares, places))
        expected[row] = mean / mean.norm() * sum(share * before[place].norm() for share, place in zip(shares, places))
    assert torch.allclose(made.weight, expected, atol=1e-6)
    bare = ItemTable(N, 4, ItemSettings(), extra_rows=1, inference_only=True)
    bare.load_state_dict({name: value.clone() for name, value in made.state_dict().items()})
    assert torch.equal(bare.weight, made.weight)


def test_a_table_of_ids_alone_is_saved_once(text):
    assert list(table(*text).state_dict()) == ["embedding.weight"]


@pytest.mark.parametrize("kind", ["center", "half", "full"])
def test_texts_that_are_all_alike_say_nothing(kind):
    """Of no spread there is no direction: zeros, or noise to start from, not 0 / 0."""
    alike, has_text = torch.tensor([0.5, -1.0, 2.0]).repeat(8, 1), torch.arange(8) > 0
    assert not TextTransform(alike, has_text, ItemSettings(text_whitening=kind))(alike).any()
    assert not standardised_components(alike, has_text, 2).any()
    start = principal_components(alike, has_text, 2, 0.02)
    assert torch.isfinite(start).all()
    assert 0.005 < start.std() < 0.05, "noise, as in dimensions that text does not fill"


@pytest.mark.parametrize("keys", [{"item_text": "add"}, {"item_init": "pca_text"}])
def test_a_table_that_needs_text_and_has_none_is_refused(keys):
    with pytest.raises(ConfigError, match="need item text"):
        table(None, None, **keys)


def test_an_optimiser_of_looked_up_rows_is_told_which_are_read(text):
    """Of all of them where the whole table is read or saved; rows it has not brought up to date would be old ones."""
    made, told = table(*text).train(), []
    made.before_lookup = told.append
    asked = torch.tensor([3, 5])
    made(asked)
    assert len(told) == 1
    assert told[0] is asked
    for reads_all in (lambda: made.weight, made.state_dict, lambda: made.eval()(asked)):
        told.clear()
        made.refresh()
        reads_all()
        assert None in told


def test_a_start_from_text_is_refused_where_texts_codes_take_its_place(make_config):
    with pytest.raises(ConfigError, match="item_init=pca_text, item_text=codes: .*Give one"):
        make_config("IBIM", item_init="pca_text", item_text="codes")
    assert make_config("IBIM", item_init="pca_text", item_text="add")["item_init"] == "pca_text"
