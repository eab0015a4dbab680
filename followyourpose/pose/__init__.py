"""Human pose: what a skeleton is, how it is drawn, and how it is found in frames."""
