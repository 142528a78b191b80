"""Which token of a frozen Vision Transformer, at which layer, carries which visual concept."""
