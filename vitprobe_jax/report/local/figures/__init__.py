"""The kinds of figures that the parts of study 2 are drawn as."""
