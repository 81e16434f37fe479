"""The `flex_olmo` transformer, its fragments, and its Hugging Face format."""
