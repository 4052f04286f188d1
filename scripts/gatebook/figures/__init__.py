"""Drawing: primitives, style, files of a figure, numbers in words."""
