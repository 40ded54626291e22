"""Training a classifier on few labels and many images, by published methods: one file each.

A file holds its method's losses as pure functions of arrays, and the `Method` that puts them together for
`nfk.studies.few_label_methods.training`.
"""
