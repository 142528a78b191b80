"""The report of study 2: results folder -> one page on what single patch tokens are good for."""
