"""What the gateway tells about itself: the step that sees every request, the numbers, the request log."""
