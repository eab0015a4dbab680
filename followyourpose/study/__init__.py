"""`followyourpose study`: a page for raters, and the score of their answers."""
