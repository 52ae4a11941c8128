"""One run: configuration to result, saved models, RecBole's own doors."""
