"""One file for each data set layout: where its images, masks and splits are."""
