"""Shared by the unit tests, which import each other's cases by name from this folder."""
