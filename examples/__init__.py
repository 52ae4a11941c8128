"""Extensions that stand in the documentation; tests run each."""
