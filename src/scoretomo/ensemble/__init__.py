"""Many volumes of one experiment: growing them, judging them, bringing them together."""
