"""The data set of models that learn from text or interests."""

from __future__ import annotations

from recbole_eimf.data.dataset import LazySequenceDataset


class SideLoadedDataset(LazySequenceDataset):
    """Sequences whose training part carries the side information its model asks for, as ``side``."""

    def build(self) -> list[LazySequenceDataset]:
        """Split, then run or read the off-line stage over the training part alone.

        Raises:
            UserError: as :meth:`LazySequenceDataset.build` and
                :func:`~recbole_eimf.semantic.side_load.load_side_information`.
        """
        train, valid, test = super().build()
        model_class = getattr(self.config, "model_class", None)
        if not self.config["inference_only"] and hasattr(model_class, "needs_side_information"):
            need = model_class.needs_side_information(self.config)
            if need:
                from recbole_eimf.semantic.side_load import load_side_information  # text libraries only where needed

                train.side = load_side_information(self.config, train, interests=need == "interests")
        return [train, valid, test]
