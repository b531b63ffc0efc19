"""Invalidation of stored answers before they expire: by purges, here, in the other workers and in nginx, and by unsafe requests."""
