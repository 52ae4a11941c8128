"""Catalogues of keys and models, and the configuration made from them."""
