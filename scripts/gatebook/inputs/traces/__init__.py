"""Routing traces: what other engines recorded, read from each of their forms, and checked before it is used."""
