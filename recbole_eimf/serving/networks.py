"""RecBole's four networks for scoring alone, in plain torch: same parameter names, same operations, same numbers.

A model folder is served where RecBole is not installed, and by code of this package, never by code out of the folder.
(A program of ``torch.export`` or TorchScript would be that: the one changes with torch's versions, the other runs what
it was given.) What these leave out is training; tests/serving/test_encoder.py holds each to RecBole's, bit for bit.

Each takes (config, dataset): a mapping with RecBole's keys, and anything with ``item_num``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))  # RecBole's order of operations


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": _gelu,
    "relu": F.relu,
    "swish": _swish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class _Attention(nn.Module):
    """Self-attention, residual and layer norm; ``mask`` is added to the scores of pairs."""

    def __init__(self, config) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.num_attention_heads = config["n_heads"]
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attn_dropout, self.out_dropout = nn.Dropout(0.0), nn.Dropout(0.0)
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            part(states).unflatten(-1, (self.num_attention_heads, -1)) for part in (self.query, self.key, self.value)
        )
        scores = query.permute(0, 2, 1, 3) @ key.permute(0, 2, 3, 1)
        weight = torch.softmax(scores / math.sqrt(query.shape[-1]) + mask, -1)
        context = (weight @ value.permute(0, 2, 1, 3)).permute(0, 2, 1, 3).flatten(2)
        return self.LayerNorm(self.dense(context) + states)


class _FeedForward(nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.dense_1 = nn.Linear(config["hidden_size"], config["inner_size"])
        self.dense_2 = nn.Linear(config["inner_size"], config["hidden_size"])
        self.LayerNorm = nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])
        self.activation = ACTIVATIONS[config["hidden_act"]]

    def forward(self, states: Tensor) -> Tensor:
        return self.LayerNorm(self.dense_2(self.activation(self.dense_1(states))) + states)


class _Layer(nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.multi_head_attention = _Attention(config)
        self.feed_forward = _FeedForward(config)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        return self.feed_forward(self.multi_head_attention(states, mask))


class _Encoder(nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config["n_layers"]))

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layer:
            states = layer(states, mask)
        return states


def _last(states: Tensor, place: Tensor) -> Tensor:
    """[B, L, d], [B] -> [B, d]."""
    return states.gather(1, place.view(-1, 1, 1).expand(-1, -1, states.shape[-1])).squeeze(1)


def _pairs(item_seq: Tensor, bidirectional: bool) -> Tensor:
    """[B, L] -> [B, 1, 1 or L, L]: 0 where a position may look, -10000 elsewhere, as RecBole adds it to scores."""
    real = (item_seq != 0)[:, None, None]
    if not bidirectional:
        real = torch.tril(real.expand(-1, -1, item_seq.shape[-1], -1))
    return torch.where(real, 0.0, -10000.0)


class _Transformer(nn.Module):
    """What SASRec and BERT4Rec share; ``get_attention_mask`` and ``gather_indexes`` are hooks, as RecBole has them."""

    extra_rows = 0

    def __init__(self, config, dataset: Any) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.item_embedding = nn.Embedding(dataset.item_num + self.extra_rows, width, padding_idx=0)
        self.position_embedding = nn.Embedding(config["MAX_ITEM_LIST_LENGTH"], width)
        self.trm_encoder = _Encoder(config)
        self.LayerNorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.get_attention_mask = _pairs
        self.gather_indexes = _last

    def _states(self, item_seq: Tensor, bidirectional: bool) -> Tensor:
        place = torch.arange(item_seq.shape[1], device=item_seq.device)
        position = self.position_embedding(place[None].expand_as(item_seq))
        states = self.LayerNorm(self.item_embedding(item_seq) + position)
        return self.trm_encoder(states, self.get_attention_mask(item_seq, bidirectional=bidirectional))


class SASRec(_Transformer):
    """Kang and McAuley 2018."""

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """[B, L], [B] -> [B, d]."""
        return self.gather_indexes(self._states(item_seq, False), item_seq_len - 1)


class BERT4Rec(_Transformer):
    """Sun et al. 2019."""

    extra_rows = 1

    def __init__(self, config, dataset: Any) -> None:
        super().__init__(config, dataset)
        width = config["hidden_size"]
        self.mask_token = dataset.item_num
        self.output_ffn = nn.Linear(width, width)
        self.output_gelu = nn.GELU()
        self.output_ln = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.output_bias = nn.Parameter(torch.zeros(dataset.item_num))

    def forward(self, item_seq: Tensor) -> Tensor:
        """[B, L] with mask tokens -> [B, L, d]."""
        return self.output_ln(self.output_gelu(self.output_ffn(self._states(item_seq, True))))


class GRU4Rec(nn.Module):
    """Tan et al. 2016."""

    def __init__(self, config, dataset: Any) -> None:
        super().__init__()
        width, hidden = config["embedding_size"], config["hidden_size"]
        self.item_embedding = nn.Embedding(dataset.item_num, width, padding_idx=0)
        self.gru_layers = nn.GRU(width, hidden, config["num_layers"], bias=False, batch_first=True)
        self.dense = nn.Linear(hidden, width)
        self.gather_indexes = _last

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """[B, L], [B] -> [B, d]."""
        states = self.dense(self.gru_layers(self.item_embedding(item_seq))[0])
        return self.gather_indexes(states, item_seq_len - 1)


class Caser(nn.Module):
    """Tang and Wang 2018. The user's vector comes from ``user_embedding``, which a backbone replaces by nothing."""

    def __init__(self, config, dataset: Any) -> None:
        super().__init__()
        width, length = config["embedding_size"], config["MAX_ITEM_LIST_LENGTH"]
        self.embedding_size = width
        self.item_embedding = nn.Embedding(dataset.item_num, width, padding_idx=0)
        self.conv_v = nn.Conv2d(1, config["nv"], (length, 1))
        self.conv_h = nn.ModuleList(nn.Conv2d(1, config["nh"], (height, width)) for height in range(1, length + 1))
        self.fc1 = nn.Linear(config["nv"] * width + config["nh"] * length, width)
        self.fc2 = nn.Linear(2 * width, width)

    def _init_weights(self, module: nn.Module) -> None:
        """RecBole's hook for fresh parameters: here they come from a file."""

    def forward(self, user: Tensor, item_seq: Tensor) -> Tensor:
        """[B], [B, L] of full width -> [B, d]."""
        image = self.item_embedding(item_seq)[:, None]
        parts = [self.conv_v(image).flatten(1)]
        for convolution in self.conv_h:
            found = F.relu(convolution(image).squeeze(3))
            parts.append(F.max_pool1d(found, found.shape[2]).squeeze(2))
        state = F.relu(self.fc1(torch.cat(parts, 1)))
        return F.relu(self.fc2(torch.cat([state, self.user_embedding(user)], 1)))


NETWORKS: dict[str, type[nn.Module]] = {"SASRec": SASRec, "GRU4Rec": GRU4Rec, "BERT4Rec": BERT4Rec, "Caser": Caser}
