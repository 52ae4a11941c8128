"""Pages and plots of tables."""
