"""Cosmos DB accounts, by their URLs."""
