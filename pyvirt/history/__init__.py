"""The tree of snapshots, forks, and how machines share what costs time to make."""
