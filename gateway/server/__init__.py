"""The worker process between the kernel and the pipeline: connections, requests read, answers written."""
