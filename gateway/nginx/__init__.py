"""nginx in front: its configuration, rendered from ours, and the stored bodies that it sends itself."""
