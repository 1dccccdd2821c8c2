"""Methods x data sets x seeds, each cell a process of its own, and the tables of them."""
