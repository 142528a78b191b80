"""The kinds of figures that only study 3 draws."""
