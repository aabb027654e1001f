"""What came out: arms, intervals, the board on the terminal and as a page."""
