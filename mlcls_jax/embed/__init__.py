"""The command that writes the features of images."""
