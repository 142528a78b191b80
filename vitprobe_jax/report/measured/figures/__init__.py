"""The kinds of figures that studies of measurements are drawn as."""
