"""Generation through stock SGLang servers: their start, their HTTP client, their router."""
