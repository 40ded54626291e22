"""What the body of a GAN's discriminator can learn from images alone by other means, one file each, and from labels."""
