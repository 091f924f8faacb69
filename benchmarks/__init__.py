"""One command per claim: the peers beside us, interleaved in the same minutes, figures as ratios."""
