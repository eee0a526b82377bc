"""Generation through stock SGLang servers: how one is started, spoken to and chosen."""
