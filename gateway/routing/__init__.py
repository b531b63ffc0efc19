"""Routing: the choice of a request's route, the path for the upstream, and the way back of that in its answers."""
