"""Which route answers a request, what path an upstream is asked for, and the way back of that in its answers."""
