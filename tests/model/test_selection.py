"""What is picked on a processor and masked on a GPU gives the same losses and gradients."""

from __future__ import annotations

import pytest
import torch

from recbole_eimf.model import selection
from recbole_eimf.model.losses import loss
from recbole_eimf.model.losses.partition import mean_log_partition


def test_distinct_values_are_the_first_of_their_kind_in_order():
    values = torch.tensor([4, 1, 4, 9, 1, 1])
    picked, everything = selection.distinct_values(values)
    assert picked.tolist() == [1, 4, 9]
    assert everything is None
    sorted_values, counts = selection._distinct_in_place(values)
    assert sorted_values[counts].tolist() == [1, 4, 9]
    assert len(sorted_values) == 6


@pytest.mark.parametrize("rows", [3, 10, 100])  # fewer than the index has, as many, more
def test_shared_rows_lead_every_entry_to_its_row(rows):
    table = torch.randn(rows, 2)
    index = torch.randint(rows, (2, 5))
    for found in (selection.shared_rows(index, rows), selection._rows_unasked(index, rows)):
        computed, place = found
        assert torch.equal(table[computed][place], table[index])
    assert len(selection._rows_unasked(index, rows)[0]) == min(rows, 10)


def both_ways(loss_of, counts):
    """(loss, gradients) over all rows under ``counts``, and over the rows that count alone."""
    torch.manual_seed(0)
    rows = [torch.randn(7, 3, dtype=torch.float64) for _ in range(2)]
    found = []
    for masked in (True, False):
        leaves = [row.clone().requires_grad_() for row in rows]
        value = loss_of(*leaves, counts) if masked else loss_of(*(leaf[counts] for leaf in leaves), None)
        value.backward()
        found.append([value.detach(), *(leaf.grad for leaf in leaves)])
    return zip(*found)


OTHERS = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
KIND = torch.tensor([0, 1, 1, 2, 0, 3, 1])
LOSSES = {
    "softmax": lambda a, b, c: loss.full_softmax_loss(a, OTHERS, (a * b).sum(1), dtype=torch.float64, counts=c),
    "sampled": lambda a, b, c: loss.interest_aware_loss((a * b).sum(1), a @ OTHERS.T, 0.5, counts=c),
    "contrast": lambda a, b, c: loss.info_nce(a, b, 0.3, dtype=torch.float64, counts=c),
    "cosine": loss.cosine_distance,
    "partition": lambda a, b, c: mean_log_partition(a * b, OTHERS, OTHERS[:, 0], torch.float64, counts=c),
}


@pytest.mark.parametrize("name", LOSSES)
def test_rows_that_do_not_count_change_nothing(name):
    for masked, picked in both_ways(LOSSES[name], torch.tensor([True, False, True, True, False, True, True])):
        torch.testing.assert_close(masked, picked)


def test_a_contrast_that_knows_equal_rows_leaves_others_out_too():
    counts = torch.tensor([True, False, True, True, False, True, True])

    def contrast(a, b, c):
        kind = KIND[counts] if c is None else KIND
        return loss.info_nce(a, b, 0.3, kind[:, None] == kind, torch.float64, c)

    for masked, picked in both_ways(contrast, counts):
        torch.testing.assert_close(masked, picked)


@pytest.mark.parametrize("name", LOSSES)
def test_where_nothing_counts_the_loss_is_zero_and_so_are_its_gradients(name):
    a, b = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    value = LOSSES[name](a, b, torch.zeros(4, dtype=torch.bool))
    value.backward()
    assert value == 0
    assert not a.grad.any()
    assert b.grad is None or not b.grad.any()
