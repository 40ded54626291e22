"""Ways to teach a small classifier what a large one knows: one transfer loss a file, and what they share.

A student minimises a * cross-entropy + b * transfer(Seen). Each transfer is a flax module from `Seen` to a scalar, its
parameters the layers that only the comparison needs (regressors, a head), which are thrown away after the training.
"""
