"""AdamW that touches, of a large item table, only the rows a step reads, and still does what AdamW does.

Under a sampled softmax a step reads some thousand rows of a table of hundreds of thousands, but AdamW rewrites the
whole table, its moments included, at every step: a row without a gradient still moves by its momentum and decays. Here
such a row waits, and the steps it missed are made up for in one go when it is next read (:class:`LazyAdamW`).

torch's SparseAdam is something else: it leaves the missed steps out. One gradient moves a rare item by about 3 learning
rates there and by about 30 in AdamW, whose second moment forgets a hundred times slower than its first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recbole_eimf.model.base import SequenceModel
from recbole_eimf.model.item_table import ItemTable


class LazyAdamW(torch.optim.AdamW):
    """AdamW for ``parameters``; the embeddings of ``tables`` get sparse gradients and are brought up to date by row.

    A row without a gradient at n steps from step s on would have moved by ``-lr m sum_j b1^j / (1 - b1^(s + j)) /
    (sqrt(b2^j v / (1 - b2^(s + j))) + eps)``, j = 1..n. But for ``eps``, m and v come out of the sum, and what is left
    depends on s and n alone. ``eps`` is taken as if the root did not change meanwhile: j is small where b1^j is not.
    With weight decay w the whole is also multiplied by ``(1 - lr w)^(n - j)``.

    Args:
        parameters: of the model, the tables' included.
        tables: with sparse gradients; all their steps go through :meth:`catch_up`.
        lr, weight_decay: as in AdamW; they must not change while rows wait.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], tables: Sequence[ItemTable], lr: float, weight_decay: float):
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        self._tables = [table.embedding.weight for table in tables]
        self._last = [torch.zeros(len(w), dtype=torch.long, device=w.device) for w in self._tables]
        self._read_groups()
        for number, (table, weight) in enumerate(zip(tables, self._tables, strict=True)):
            self.state[weight] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
            table.before_lookup = lambda rows, number=number: self.catch_up(number, rows)

    def _read_groups(self) -> None:
        group = self.param_groups[0]
        self._lr, self._decay = group["lr"], group["weight_decay"]
        self._momentum = _MissedMomentum(self._lr, self._decay, self.defaults["betas"])

    @torch.no_grad()
    def catch_up(self, number: int, rows: Tensor | None = None) -> None:
        """Make up for the missed steps of rows [...] (repeated ones, too) of a table, or of all its rows."""
        last, weight = self._last[number], self._tables[number]
        step = int(self.state[weight]["step"])
        if rows is None:
            rows = (last < step).nonzero().squeeze(1)
        else:
            rows = rows.unique()
            rows = rows[last[rows] < step]
        if len(rows):
            self._move(number, rows, step)

    def _move(self, number: int, rows: Tensor, step: int) -> None:
        """Rows [R], each once, from the step they were last at to ``step``."""
        weight, last = self._tables[number], self._last[number]
        state, (b1, b2) = self.state[weight], self.defaults["betas"]
        since = last[rows]
        missed = (step - since).double()
        first, second = state["exp_avg"][rows], state["exp_avg_sq"][rows]
        gone = self._momentum.after(since, step).to(weight.dtype)[:, None]
        root_of_correction = (1 - b2 ** (since + 1).double()).sqrt().to(weight.dtype)[:, None]
        direction = first / (second.sqrt() + self.defaults["eps"] * root_of_correction)
        kept = ((1 - self._lr * self._decay) ** missed).to(weight.dtype)[:, None]
        weight[rows] = weight[rows] * kept - self._lr * gone * direction
        state["exp_avg"][rows] = first * (b1**missed).to(weight.dtype)[:, None]
        state["exp_avg_sq"][rows] = second * (b2**missed).to(weight.dtype)[:, None]
        last[rows] = step

    @torch.no_grad()
    def step(self, closure=None) -> Any:
        for number, weight in enumerate(self._tables):
            if weight.grad is not None:
                self._step_rows(number, weight)
                weight.grad = None  # AdamW passes over it
        return super().step(closure)

    def _step_rows(self, number: int, weight: nn.Parameter) -> None:
        gradient = weight.grad.coalesce() if weight.grad.is_sparse else weight.grad.to_sparse(1)
        rows, values = gradient.indices()[0], gradient.values()
        self.catch_up(number, rows)
        state, (b1, b2) = self.state[weight], self.defaults["betas"]
        state["step"] += 1
        step, lr = int(state["step"]), self._lr
        first = state["exp_avg"][rows].lerp_(values, 1 - b1)
        second = state["exp_avg_sq"][rows].mul_(b2).addcmul_(values, values, value=1 - b2)
        root = second.sqrt().div_((1 - b2**step) ** 0.5).add_(self.defaults["eps"])
        kept = weight[rows] * (1 - lr * self._decay)
        weight[rows] = kept.addcdiv_(first, root, value=-lr / (1 - b1**step))
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = first, second
        self._last[number][rows] = step

    def catch_up_all(self) -> None:
        """Bring every table up to date: before a model is judged or saved."""
        for number in range(len(self._tables)):
            self.catch_up(number)

    def state_dict(self) -> dict[str, Any]:
        self.catch_up_all()  # so that no row's last step needs to be kept
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._read_groups()
        for weight, last in zip(self._tables, self._last, strict=True):
            last.fill_(int(self.state[weight]["step"]))


class _MissedMomentum:
    """How far momentum carries a row at steps without a gradient, in units of ``lr m / sqrt(v)``.

    With ``r = b1 / (sqrt(b2) a)``, ``a = 1 - lr w`` and ``c(i) = sqrt(1 - b2^i) / (1 - b1^i)``, from step s to step t
    it is ``a^(t - s) (D(s) - r^(t - s) D(t))``, where ``D(s) = sum_j r^j c(s + j)`` over all j from 1 on.
    """

    def __init__(self, lr: float, weight_decay: float, betas: tuple[float, float]) -> None:
        self.b1, self.b2 = betas
        self.kept = 1 - lr * weight_decay
        self.ratio = self.b1 / (self.b2**0.5 * self.kept)
        value = self.ratio / (1 - self.ratio)  # of the end, where c is one to float64
        carried = [value]
        for i in range(int(40 / (1 - self.b2)), 0, -1):
            value = self.ratio * ((1 - self.b2**i) ** 0.5 / (1 - self.b1**i) + value)
            carried.append(value)
        self._carried = torch.tensor(carried[::-1], dtype=torch.float64)  # D(0), D(1), ..., D(the end)

    def after(self, since: Tensor, step: int) -> Tensor:
        """Rows last seen at steps ``since`` [R], now at ``step``: float64 [R]."""
        carried, end = self._carried.to(since.device), len(self._carried) - 1
        missed = (step - since).double()
        return self.kept**missed * (carried[since.clamp(max=end)] - self.ratio**missed * carried[min(step, end)])


def lazy_optimiser(model: nn.Module, config, scaled: bool) -> LazyAdamW | None:
    """A lazy AdamW for a model whose steps look item vectors up, where it is AdamW that was asked for; else None.

    ``scaled``: whether gradients are scaled (float16), which needs them dense; so do clipping and several processes.
    A GPU rewrites a whole table sooner than it says which rows were read.
    """
    if config["device"].type == "cuda":
        return None
    adam = config["learner"] == "adamw" or (config["learner"] == "adam" and not config["weight_decay"])
    if not (adam and isinstance(model, SequenceModel) and model.looks_up and config["single_spec"]):
        return None
    lr, decay = config["learning_rate"], config["weight_decay"] or 0.0
    if scaled or config["clip_grad_norm"] or lr * decay > 0.05:  # a decay like that outruns momentum: sums diverge
        return None
    tables = [module for module in model.modules() if isinstance(module, ItemTable)]
    return LazyAdamW(model.parameters(), tables, lr, decay)
