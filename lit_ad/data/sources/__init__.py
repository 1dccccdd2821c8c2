"""Sources list the images, masks and splits of a data set. There is one file for each layout."""
