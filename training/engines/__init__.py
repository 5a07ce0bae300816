"""Where the cohorts of a run are trained."""
