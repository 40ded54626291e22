"""One local page of an embedding: its points, its images, and who is near whom."""
