"""What was purged, and how every worker of every instance hears of it."""
