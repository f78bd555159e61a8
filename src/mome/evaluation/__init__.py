"""Word error rates over tasks, rates and noise levels, and their files."""
