"""Telemetry of the gateway: the step that sees every request, the numbers, the request log."""
