"""Fisher scores, their statistics, and the matrix of Fisher vectors. Knows a model by one function."""
