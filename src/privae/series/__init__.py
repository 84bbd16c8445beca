"""Time series: readings of sensors as windows of a declared clock, and windows as few numbers."""
