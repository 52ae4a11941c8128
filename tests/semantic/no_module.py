"""A module that fails while it is imported."""

raise NameError("nothing of that name")
