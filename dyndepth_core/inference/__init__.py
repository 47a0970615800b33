"""Model files and the Predictor that runs on the vehicle."""
