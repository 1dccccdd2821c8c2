"""Sources: one file for each layout of a data set. It lists images, masks and splits."""
