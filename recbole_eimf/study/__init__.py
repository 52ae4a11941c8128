"""Many runs: searches, comparisons and the studies of the papers."""
