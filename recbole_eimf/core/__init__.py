"""The ground floor: errors, files, locks, processes."""
