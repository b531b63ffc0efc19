"""What comes in from a client: its Request, whom to believe about it, and what is refused before any route is looked at."""
