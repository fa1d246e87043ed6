"""Images that nodes of clusters are made from, of Debian's packages alone."""
