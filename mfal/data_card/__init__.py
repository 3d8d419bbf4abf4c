"""A data set as it is published: what belongs to it, how it is split, and the card that explains it."""
