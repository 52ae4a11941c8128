"""Raw data to RecBole's atomic files."""
