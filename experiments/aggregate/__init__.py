"""Study 3, aggregation: `python -m experiments.aggregate`."""
