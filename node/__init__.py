"""The application: command line, daemon, worker, local testnet, demo."""
