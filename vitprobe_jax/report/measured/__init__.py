"""What the reports of studies share whose results are a table of measurements: rows, tables, figures, the page."""
