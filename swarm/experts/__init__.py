"""Which peer holds which experts, and where their bytes are kept."""
