"""What is not Bayesian: probabilities of success to compare with."""
