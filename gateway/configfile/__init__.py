"""The configuration file: reading it, checking it, and saying every mistake with its place."""
