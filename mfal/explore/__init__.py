"""Candidates: orderings, strains, rattles and molecular dynamics; the unphysical and the familiar are dropped."""
