"""Something the user can mend."""


class Problem(Exception):
    """Something the user can mend: one sentence that names the file or key, the value and the remedy."""
