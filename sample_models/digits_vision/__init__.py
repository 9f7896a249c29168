"""A small convolutional network, trained on handwritten digits."""
