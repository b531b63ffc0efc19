"""Which route answers a request, and what path an upstream is asked for."""
