"""What makes stored answers invalid before they expire: purges, here, in the other workers and in nginx, and unsafe requests."""
