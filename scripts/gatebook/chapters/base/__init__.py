"""What every chapter has: its declaration and its page."""
