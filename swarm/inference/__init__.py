"""Generation with a trained model: `engine.generate` and its key/value cache."""
