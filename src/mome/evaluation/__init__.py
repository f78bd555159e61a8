"""Word error rates over tasks, rates and noise levels, and the files they are kept in."""
