"""What connects a program and its runs with tools of others; each module needs a package of its own extra."""
