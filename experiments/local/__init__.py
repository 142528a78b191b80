"""Study 2, local representations: `python -m experiments.local`."""
