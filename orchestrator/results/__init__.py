"""The results of a sweep: arms, intervals, and the leaderboard on the terminal and as an HTML page."""
