"""RecBole's trainer with resume at every epoch."""
