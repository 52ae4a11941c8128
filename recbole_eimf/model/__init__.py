"""Models: backbones behind one contract, IBIM (a backbone trained alone), EIMF, counting floors."""
