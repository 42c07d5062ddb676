"""Many volumes of one experiment: growing the set from the volumes that have locked."""
