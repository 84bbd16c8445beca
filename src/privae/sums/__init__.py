"""What records add to released sums, and the models that follow from these."""
