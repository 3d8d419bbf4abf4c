"""Which frames get the expensive label, and when the campaign has had enough."""
