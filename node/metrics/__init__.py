"""What a node tells monitoring: OpenMetrics on `/metrics`, health on `/healthz`."""
