"""The steps of one cohort."""
