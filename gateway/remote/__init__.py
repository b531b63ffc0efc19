"""Servers that the gateway itself asks over the network, Redis and Memcached: what one may cost a request, in time and in bytes."""
