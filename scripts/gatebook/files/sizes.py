"""Bytes in words."""


def format_bytes(value: int) -> str:
    """A size in decimal units (1 kB = 1,000 bytes) with three significant digits."""
    if value < 1000:
        return f"{value} B"
    size = float(value)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        size /= 1000
        rounded = float(f"{size:.3g}")
        if rounded < 1000 or unit == "PB":
            break
    return f"{size:,.{max(0, 3 - len(str(int(rounded))))}f} {unit}"
