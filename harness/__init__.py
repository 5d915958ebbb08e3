"""The benchmark harness: recipes become runs, runs become records, records become a leaderboard."""

__version__ = "0.1.0"
