"""Who may do what on a listener with rules: the policy, the session of a connection, and the hooks."""
