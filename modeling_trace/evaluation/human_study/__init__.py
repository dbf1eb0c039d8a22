"""Human evaluation (paper, Section 5.5): rating sheets, the form to fill in, and the statistics of what comes back."""
