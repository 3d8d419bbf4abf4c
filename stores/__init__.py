"""Where a campaign is kept: maggma stores on one SQLite file, and the builder that fills its collections."""
