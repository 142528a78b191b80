"""The report of study 3: results folder -> one page on how the tokens of an image are best made one vector."""
