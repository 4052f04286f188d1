"""Routers: families and their rule, models, extraction, records (writing and reading)."""
