"""The data set of models that learn from text or interests."""

from __future__ import annotations

from recbole_eimf.data import stock_datasets
from recbole_eimf.data.dataset import LazySequenceDataset
from recbole_eimf.semantic.needs import needed


class SideLoadedDataset(LazySequenceDataset):
    """Sequences whose training part carries the side information its model asks for, as ``side``."""

    def build(self) -> list[LazySequenceDataset]:
        """Split, then run or read the off-line stage over the training part alone.

        Raises:
            UserError: as :meth:`LazySequenceDataset.build` and
                :func:`~recbole_eimf.semantic.side_load.load_side_information`.
        """
        train, valid, test = super().build()
        need, follows = needed(self.config)
        if need:
            from recbole_eimf.semantic.side_load import load_side_information  # text libraries only where needed

            train.side = load_side_information(self.config, train, interests=need == "interests", follows=follows)
            if train.before_test is not None:
                train.before_test.side = train.side.known_to(train.before_test)
        return [train, valid, test]


def dataset_class(model_class: type) -> type[LazySequenceDataset]:
    """The data set class of a model: its own, what a model of RecBole's reads beyond items, else the one above."""
    found = stock_datasets.lazy_dataset_class(model_class)
    return SideLoadedDataset if found is LazySequenceDataset else found


def unsplit(config) -> LazySequenceDataset:
    """The whole data set of a configuration, all events of a user in ``flat`` between its ``offsets``.

    Raises:
        DataError: its files are not there, or damaged.
    """
    whole = dataset_class(config.model_class)(config)
    whole._change_feat_format()
    return whole
