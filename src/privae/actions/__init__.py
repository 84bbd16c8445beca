"""What is done to the values of one column before anything learns from them: each value by itself."""
