"""Which images to calibrate on, the ranges they give, the calibration table."""
