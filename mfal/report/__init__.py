"""The report of a campaign: one HTML page that needs no network; `page.render` makes it."""
