"""A model of your own: IBIM with label smoothing: its softmax does not fully trust its labels.

python run_recbole_eimf.py --model=examples.smoothed:Smoothed --backbone=SASRec --dataset=ml-100k \
    --label_smoothing=0.1 --allow_unknown_keys=True
"""

from __future__ import annotations

from torch import Tensor

from recbole_eimf.model.ibim import IBIM


class Smoothed(IBIM):
    """A share of every label is spread evenly over the catalogue.

    Keys: ``label_smoothing``, 0 to 1; 0 is IBIM. Defaults, rows, protocols, resume and serving are inherited.
    """

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        share = config["label_smoothing"]  # None where nobody set it
        self.share = 0.1 if share is None else share

    def _labelled_score(self, positive: Tensor, states, vectors: Tensor, readout: Tensor, interaction) -> Tensor:
        # the mean score under the label: (1 - share) of the target's and share of the mean over all items
        everything = readout @ self.scored_vectors()[1:].mean(0)
        return (1 - self.share) * positive + self.share * everything
