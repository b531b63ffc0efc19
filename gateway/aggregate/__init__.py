"""Several upstream calls composed into one answer."""
