"""Requests from clients: the Request, trust in proxies, and what is refused before any route is looked at."""
